"""What the gateway and the controller are told at start: read once, frozen, passed in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feedback.settings import FeedbackSettings


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """Bounds on a single request and on calls in flight."""

    max_body_bytes: int = Field(4 * 1024 * 1024, gt=0)
    max_in_flight: int = Field(512, gt=0)
    max_n: int = Field(16, gt=0)
    max_tokens: int = Field(4096, gt=0, description="cap on the tokens of one answer")


class Timeouts(_Frozen):
    """Seconds to wait for a worker, stage by stage."""

    connect: float = Field(2.0, gt=0)
    first_byte: float = Field(120.0, gt=0)
    idle: float = Field(60.0, gt=0)
    worker_wait: float = Field(10.0, ge=0, description="for a worker to come back, before 503")


class WorkerSettings(_Frozen):
    """A worker to route to."""

    name: str
    url: str
    kind: str = "vllm"


class RolloutSettings(_Frozen):
    """How a version that passed the gate goes to its callers."""

    weight: float = Field(0.2, gt=0, lt=1, description="share of the callers during the canary")
    answers: int = Field(50, gt=0, description="answers without a hard fault until it is promoted")


class RefreshSettings(_Frozen):
    """When adapters are refreshed by themselves."""

    cron: str | None = Field(None, description="`0 2 * * *`: every night at two; off by default")
    aliases: tuple[str, ...] = Field((), description="which ones")
    tenant: str = "default"
    minimum_new: int = Field(20, ge=1, description="with fewer new rows the night is skipped")

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is not None and (trouble := _trouble_with(value)):
            raise ValueError(
                f"{value!r} is no cron expression ({trouble}); five fields, such as '0 2 * * *'"
            )
        return value

    @model_validator(mode="after")
    def _is_for_something(self) -> RefreshSettings:
        if self.cron is not None and not self.aliases:
            raise ValueError("cron says when to refresh, and aliases does not say what")
        return self


def _trouble_with(cron: str) -> str | None:
    """Say what is wrong with a cron expression."""
    if len(cron.split()) != 5:
        return "Wrong number of fields"
    try:
        next(CronSim(cron, datetime.now(UTC)))
    except CronSimError as error:
        return str(error)
    except StopIteration:
        return "There is no such day"
    return None


class GatewaySettings(_Frozen):
    """Everything that a gateway or a controller needs to know of its surroundings."""

    database_url: str
    storage: Path
    outbox: Path
    guard_socket: Path
    import_roots: tuple[Path, ...] = ()
    workers: tuple[WorkerSettings, ...] = ()
    base_model: str = "SmolLM2-135M-Instruct"
    base_model_path: Path | None = None
    max_lora_rank: int = Field(16, gt=0)
    max_cpu_loras: int = Field(8, gt=0)
    policy_file: Path | None = None
    logprobs: str = Field("all", pattern="^(all|off)$")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    feedback: FeedbackSettings = FeedbackSettings()
    rollout: RolloutSettings = RolloutSettings()
    refresh: RefreshSettings = RefreshSettings()
