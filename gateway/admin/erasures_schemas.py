"""The bodies of erasures. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt
from sqlalchemy import RowMapping

from feedback.erasure.service import Erased
from gateway.admin.schemas import MAX_INT, Asked, Page, Told
from gateway.registry.ancestry import Trained

MOST = 1000

User = Annotated[str, Field(min_length=1, max_length=1000)]
ResponseId = Annotated[str, Field(pattern="^[!-~]{1,200}$")]
Number = Annotated[StrictInt, Field(ge=1, le=MAX_INT)]


class ErasureRequest(Asked):
    """Whose rows are erased: all that any of these names.

    `users` are what apps send as `safety_identifier`, `user`, `prompt_cache_key` or `x-session-id`
    (the first of them that a call has), and what imports have as `split_key`. `keys` are ids of API
    keys, `tickets` ids of imported rows, as the lineage of a data set's rows names them.
    `reference` goes into the record: name nobody there.
    """

    users: list[User] = Field(default_factory=list, max_length=MOST)
    response_ids: list[ResponseId] = Field(default_factory=list, max_length=MOST)
    keys: list[Number] = Field(default_factory=list, max_length=MOST)
    tickets: list[Number] = Field(default_factory=list, max_length=MOST)
    reference: Annotated[str, Field(pattern=r"^[\w./#:-]{0,100}$")] = ""
    dry_run: bool = False


class TouchedOut(Told):
    """A data set that held rows of theirs: `erased_rows` of them, by all erasures of theirs."""

    digest: str
    alias: str
    erased_rows: int
    created_at: float


class RunOut(Told):
    """A job that trained on such a data set; its trainer's folder of runs holds a copy."""

    job_id: str
    alias: str
    state: str
    dataset: str
    version: int | None


class TrainedOut(Told):
    """A version that was trained on such a data set, or merged from one that was."""

    model: str
    state: str
    dataset: str | None
    merged: bool


class ErasureOut(Told):
    """What was erased now, by kind; and what was made of it, by earlier erasures of theirs too.

    `id` names it in the record; a dry run has none.
    """

    id: str | None
    dry_run: bool
    counts: dict[str, int]
    datasets: list[TouchedOut]
    runs: list[RunOut]
    versions: list[TrainedOut]

    @classmethod
    def of(cls, found: Erased, versions: list[Trained], dry_run: bool) -> ErasureOut:
        """Tell of an erasure."""
        return cls(
            id=None if dry_run else found.id,
            dry_run=dry_run,
            counts=found.counts,
            datasets=[
                TouchedOut(
                    digest=one.digest,
                    alias=one.alias,
                    erased_rows=one.rows,
                    created_at=one.created_at,
                )
                for one in found.datasets
            ],
            runs=[
                RunOut(
                    job_id=run.job_id,
                    alias=run.alias,
                    state=run.state,
                    dataset=run.dataset,
                    version=run.version,
                )
                for run in found.runs
            ],
            versions=[
                TrainedOut(
                    model=one.model,
                    state=one.state,
                    dataset=one.dataset,
                    merged=bool(one.merged_from),
                )
                for one in versions
            ],
        )


class ErasureRecordOut(Told):
    """An erasure in the record: people are there by their sessions' pseudonyms.

    One that was cut off has no `finished_at`: ask for the same again.
    """

    id: str
    actor: str
    reference: str
    subjects: dict[str, list[Any]]
    counts: dict[str, int]
    datasets: list[str]
    begun_at: float
    finished_at: float | None

    @classmethod
    def of(cls, lines: list[RowMapping]) -> ErasureRecordOut:
        """Put the lines of one erasure together; the first says who began it."""
        first, last = lines[0], lines[-1]
        counts: dict[str, int] = {}
        for line in lines:
            for name, number in line["counts"].items():
                counts[name] = counts.get(name, 0) + number
        return cls(
            id=first["erasure_id"],
            actor=first["actor"],
            reference=first["reference"],
            subjects=first["subjects"],
            counts=counts,
            datasets=last["datasets"],
            begun_at=first["at"],
            finished_at=last["at"] if last["stage"] == "finished" else None,
        )


class ErasureList(Page):
    """The record of erasures, the newest first."""

    data: list[ErasureRecordOut]
