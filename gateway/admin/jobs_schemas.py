"""The bodies of jobs, evaluations and gate reports. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from sqlalchemy import RowMapping

from gateway.admin.schemas import Asked, Line, Number, Page, Told

Name = Annotated[Line, Field(min_length=1)]
# A trainer's job must end however long its trouble's text is, and PostgreSQL refuses NUL.
Reason = Annotated[str, AfterValidator(lambda text: text.replace("\0", "")[:10_000])]
State = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]


class RefreshRequest(Asked):
    """A refresh to queue. `parameters.recipe` sets parts of the trainer's recipe otherwise."""

    alias: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class ClaimRequest(Asked):
    """Who wants a job, and of which kinds; `job_id` for one job only."""

    holder: Name
    kinds: list[Name] = Field(["refresh"], min_length=1, max_length=20)
    job_id: Line | None = None


class HolderRequest(Asked):
    """Who has the job."""

    holder: Name


class BeatRequest(HolderRequest):
    """A sign of life, and the stage that is worked on."""

    stage: Line | None = None


class StageRequest(HolderRequest):
    """A stage that is finished, and what it made."""

    stage: Name
    made: dict[str, Any]


class FinishRequest(HolderRequest):
    """How a job ended."""

    state: Literal["done", "failed", "skipped"]
    result: dict[str, Any] | None = None
    reason: Reason | None = None


class CancelRequest(Asked):
    """Why a job is cancelled."""

    reason: Line = ""


class JobOut(Told):
    """A job with its record."""

    id: str
    kind: str
    alias: str
    state: State
    stage: str | None
    stages: dict[str, Any]
    parameters: dict[str, Any]
    run_id: str | None
    lease_holder: str | None
    lease_until: float | None
    result: dict[str, Any] | None
    reason: str | None
    created_at: float
    updated_at: float

    @classmethod
    def of(cls, row: RowMapping) -> JobOut:
        """Tell of a job."""
        return cls(**{name: row[name] for name in cls.model_fields})


class JobList(Page):
    """Jobs, the newest first."""

    data: list[JobOut]


class GateRequest(Asked):
    """A gate's verdict on a candidate against another version."""

    alias: str
    candidate: Name
    against: Name
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    report: dict[str, Any]
    job_id: Line | None = None


class GateOut(Told):
    """A gate's report."""

    id: int
    alias: str
    candidate: str
    against: str
    verdict: str
    report: dict[str, Any]
    job_id: str | None
    created_at: float

    @classmethod
    def of(cls, row: RowMapping) -> GateOut:
        """Tell of a report."""
        return cls(**{name: row[name] for name in cls.model_fields})


class GateList(Page):
    """Gate reports, the newest first."""

    data: list[GateOut]


class PublishRequest(Asked):
    """The version to publish, and the job that made it."""

    version: Number
    job_id: Line | None = None
