"""What the gateway and the controller are told at start: read once, frozen, passed in."""

from __future__ import annotations

import importlib.util
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from feedback.settings import FeedbackSettings
from gateway.registry.names import PATTERN

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?")


def storage_location(value: object) -> str:
    """Give a folder's absolute path, or `s3://bucket/prefix` as it is. Raises ValueError."""
    if not isinstance(value, str | Path):
        raise ValueError("is neither a folder nor s3://bucket/prefix")
    text = str(value)
    if "://" not in text:
        return str(Path(text).expanduser().resolve())
    if not _S3.fullmatch(text):
        raise ValueError(
            "is neither a folder nor s3://bucket/prefix (credentials and endpoint go into AWS_*"
            " variables)"
        )
    if importlib.util.find_spec("obstore") is None:
        raise ValueError("s3:// needs the extra `s3`: pip install 'adapterloop[s3]'")
    return text.rstrip("/")


StorageLocation = Annotated[str, BeforeValidator(storage_location)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """Bounds on a single request and on calls in flight."""

    max_body_bytes: int = Field(4 * 1024 * 1024, gt=0)
    max_in_flight: int = Field(512, gt=0)
    max_parallel: int | None = Field(
        None, gt=0, description="calls at once of a key that has no such limit of its own"
    )
    max_n: int = Field(16, gt=0)
    max_inputs: int = Field(
        2048, gt=0, description="texts in one call for embeddings, scores or moderations"
    )
    max_tokens: int = Field(4096, gt=0, description="cap on the tokens of one answer")
    store: str = Field(
        "memory://",
        pattern=r"^(memory://|rediss?://\S+)$",
        description="where keys' limits are counted; `redis://host:6379/0` for several gateways",
    )


LogprobsShare = Annotated[
    float,
    BeforeValidator(lambda value: {"all": 1.0, "off": 0.0}.get(str(value), value)),
    Field(ge=0, le=1),
]
"""The share of the calls whose worker is asked for logprobs; `all` and `off` are 1 and 0."""


class Timeouts(_Frozen):
    """Seconds to wait for a worker, stage by stage, and for a client's next call."""

    connect: float = Field(2.0, gt=0)
    first_byte: float = Field(120.0, gt=0)
    idle: float = Field(60.0, gt=0)
    worker_wait: float = Field(10.0, ge=0, description="for a worker to come back, before 503")
    fallback_wait: float = Field(
        1.0, ge=0, description="for each fallback, and for a version that one could stand in for"
    )
    keep_alive: int = Field(75, gt=0, description="an idle client's connection is kept so long")


def read_secret(variable: str) -> str | None:
    """Read a secret that settings name by its variable; when it is needed, so nothing keeps it.

    None where the variable is not set, or holds what cannot stand in a header.
    """
    value = os.environ.get(variable, "").strip()
    return value if value.isascii() and value.isprintable() and value else None


class QueueSettings(_Frozen):
    """When a worker is full, and how many calls wait for how long when all of them are."""

    worker_waiting: int = Field(4, gt=0, description="calls that wait on a worker, at most")
    kv_usage: float = Field(0.95, gt=0, le=1, description="of a worker's KV cache, at most")
    per_worker: int | None = Field(None, gt=0, description="calls of one gateway on a worker")
    size: int = Field(1024, ge=0, description="calls that wait in one gateway; 0: none does")
    wait: float = Field(30.0, gt=0, description="seconds that a call waits, before 429")


_IN_FILE = "file+/"


class WorkerSettings(_Frozen):
    """A worker to route to, or where such workers are found."""

    name: str = Field(pattern=r"^[^@]+$")
    url: str = Field(
        description="`dns+http://host:port`, `k8s+http://service.namespace` and `file+/path` find"
    )
    kind: Literal["vllm", "llamacpp", "tensorrt_llm", "openai"] = "vllm"
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="variable that holds the API key"
    )
    models: dict[str, str] = Field({}, description="the worker's names for `support@3`, `base`")
    base: str | None = Field(None, description="its base model, where its list does not tell")

    @field_validator("url")
    @classmethod
    def _root(cls, value: str) -> str:
        if value.startswith(_IN_FILE):
            return value
        if not re.match(r"(dns\+|k8s\+)?https?://[^/]", value):
            raise ValueError("begins with http://, https://, dns+http://, k8s+http:// or file+/")
        if value.startswith("k8s+") and "." not in urlsplit(value).netloc:
            raise ValueError("name the service's namespace too, as in k8s+http://vllm.models")
        return value.rstrip("/").removesuffix("/v1")

    @property
    def file(self) -> Path | None:
        """The file that lists the entry's workers, where it is found in one."""
        found = self.url.startswith(_IN_FILE)
        return Path(self.url.removeprefix("file+")) if found else None

    @model_validator(mode="after")
    def _has_names(self) -> WorkerSettings:
        if self.kind == "vllm" and self.models:
            raise ValueError("models: vLLM knows versions by their own names; leave it out")
        if self.kind == "tensorrt_llm" and any(
            not value.startswith("/") for name, value in self.models.items() if name != "base"
        ):
            raise ValueError(
                "models: name each adapter's folder on the worker, such as /adapters/7"
            )
        return self


class BaseModelSettings(_Frozen):
    """A base model beside the default one."""

    name: str = Field(pattern=rf"^{PATTERN}$", description="the alias under which it is called")
    model: str = Field(min_length=1, description="its name, which adapters say they were made for")
    path: Path | None = Field(None, description="its files, where they are at hand")

    @field_validator("name")
    @classmethod
    def _is_another(cls, value: str) -> str:
        if value == "base":
            raise ValueError("'base' is the default base model; choose another name")
        return value


class ShadowSettings(_Frozen):
    """How a candidate is tried on copies of calls before any caller gets it."""

    share: float = Field(0.1, gt=0, le=1, description="of the alias's calls that are copied")
    answers: int = Field(200, gt=0, description="pairs of answers before the first caller")
    in_flight: int = Field(4, ge=0, description="copies at once in one gateway; 0: none is sent")
    publish: bool = Field(False, description="whether publishing begins with it")

    def plan(self) -> dict[str, Any]:
        """Give what goes into the record of a rollout that begins so."""
        return self.model_dump(include={"share", "answers"})


class RolloutSettings(_Frozen):
    """How a version goes to its callers, step by step."""

    steps: tuple[float, ...] = Field((0.1, 0.5), description="rising shares of the callers, 0..1")
    answers: int = Field(25, gt=0, description="candidate's answers at each step, at least")
    evidence: Literal["test", "answers"] = Field(
        "test",
        description="`test`: promoted once shown to be no worse; `answers`: after so many answers"
        " without a hard fault",
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance to roll back one that is equal")
    margin: float = Field(
        0.05, gt=0, lt=0.5, description="of flag, block and error rates: a loss that is ruled out"
    )
    slower: float = Field(0.25, gt=0, description="the same for the time of an answer, relative")
    shadow: ShadowSettings = ShadowSettings()

    @field_validator("steps")
    @classmethod
    def _rises(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < share < 1 for share in value) or sorted(set(value)) != [*value]:
            raise ValueError("steps are rising shares of the callers between 0 and 1")
        return value

    def plan(self) -> dict[str, Any]:
        """Give what goes into the record when the controller is to drive a rollout."""
        told = self.model_dump(include={"answers", "evidence", "alpha"})
        return {"driven": True, "steps": list(self.steps), **told}


class PlacementSettings(_Frozen):
    """Which adapters stay on the workers, and how long a proof counts."""

    warm: float = Field(
        3600.0,
        ge=0,
        description="seconds after a promote or rollback for which the versions before stay loaded",
    )
    proof_interval: float = Field(
        3600.0, gt=0, description="seconds after which an adapter is measured again on its worker"
    )


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
    storage: StorageLocation
    outbox: Path
    guard_socket: Path
    import_roots: tuple[Path, ...] = ()
    workers: tuple[WorkerSettings, ...] = ()
    base_model: str = "SmolLM2-135M-Instruct"
    base_model_path: Path | None = None
    bases: tuple[BaseModelSettings, ...] = ()
    max_lora_rank: int = Field(16, gt=0)
    max_cpu_loras: int = Field(8, gt=0)
    policy_file: Path | None = None
    logprobs: LogprobsShare = 1.0
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    queue: QueueSettings = QueueSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    rollout: RolloutSettings = RolloutSettings()
    placement: PlacementSettings = PlacementSettings()
    refresh: RefreshSettings = RefreshSettings()

    @property
    def storage_folder(self) -> Path | None:
        """The storage where it is a folder, which files may be registered from again."""
        return None if "://" in self.storage else Path(self.storage)

    @property
    def base_models(self) -> dict[str, str]:
        """The models by the aliases of the bases, the default one first."""
        return {"base": self.base_model, **{base.name: base.model for base in self.bases}}
