"""Rows of data sets that are erased: digest and lineage stay in their places, the texts go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from feedback.tables import DATASET_ROWS, DATASETS, JOBS

_PAGE = 2000
_ROWS = DATASET_ROWS.c


@dataclass(frozen=True, slots=True)
class Gone:
    """What was erased, as lineage names it."""

    answers: Collection[str]
    tickets: Collection[int]

    def holds(self, lineage: Mapping[str, Any]) -> bool:
        """Whether a row came of any of it."""
        return (
            lineage.get("response_id") in self.answers or lineage.get("ticket_id") in self.tickets
        )


@dataclass(frozen=True, slots=True)
class Touched:
    """A data set with `rows` erased rows of these people in it; `places` still have their texts."""

    digest: str
    alias: str
    created_at: float
    rows: int
    places: Sequence[int]
    conflicts: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A job that trained on a data set, and the version that came of it, if one has by now."""

    job_id: str
    alias: str
    state: str
    dataset: str
    version: int | None


def digests(connection: Connection, tenant: str) -> list[str]:
    """Give all data sets of a tenant, the oldest first."""
    query = select(DATASETS.c.digest).where(DATASETS.c.tenant == tenant)
    return list(connection.scalars(query.order_by(DATASETS.c.created_at, DATASETS.c.digest)))


def find(connection: Connection, digest: str, gone: Gone) -> Touched | None:
    """Tell what a data set holds, or held, of what is gone; None where that is nothing."""
    query = select(DATASETS).where(DATASETS.c.digest == digest)
    dataset = connection.execute(query).mappings().one()
    rows, places = 0, []
    for place, lineage, erased_at in _lineages(connection, digest):
        if gone.holds(lineage):
            rows += 1
            if erased_at is None:
                places.append(place)
    conflicts = _clean_conflicts(dataset["manifest"], gone) is not None
    if not rows and not conflicts:
        return None
    return Touched(digest, dataset["alias"], dataset["created_at"], rows, places, conflicts)


def _lineages(connection: Connection, digest: str) -> Iterator[Any]:
    after = -1
    while True:
        query = (
            select(_ROWS.position, _ROWS.lineage, _ROWS.erased_at)
            .where(_ROWS.dataset_digest == digest, _ROWS.position > after)
            .order_by(_ROWS.position)
            .limit(_PAGE)
        )
        page = connection.execute(query).all()
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].position


def blank(connection: Connection, found: Touched, gone: Gone, now: float) -> int:
    """Take the texts out of rows, and out of what the manifest tells of conflicts."""
    cleared = {"instruction": "", "input": "", "output": "", "erased_at": now}
    done = 0
    for at in range(0, len(found.places), _PAGE):
        which = (
            _ROWS.dataset_digest == found.digest,
            _ROWS.position.in_(found.places[at : at + _PAGE]),
            _ROWS.erased_at.is_(None),
        )
        done += connection.execute(update(DATASET_ROWS).where(*which).values(**cleared)).rowcount
    mine = DATASETS.c.digest == found.digest
    query = select(DATASETS.c.manifest).where(mine).with_for_update()
    manifest: dict[str, Any] = connection.execute(query).scalar_one()
    conflicts = _clean_conflicts(manifest, gone)
    changed = {**manifest, "erased": manifest.get("erased", 0) + done}
    if conflicts is not None:
        changed["conflicts"] = conflicts
    connection.execute(update(DATASETS).where(mine).values(manifest=changed))
    return done


def _clean_conflicts(manifest: Mapping[str, Any], gone: Gone) -> list[dict[str, Any]] | None:
    """Give the conflicts without the texts that are gone; None where they have none."""
    conflicts = manifest.get("conflicts") or []
    new = [
        {**one, "instruction": "", "input": ""} if any(map(gone.holds, one["lineage"])) else one
        for one in conflicts
    ]
    return new if new != conflicts else None


def runs_on(connection: Connection, tenant: str, found: Collection[str]) -> list[Run]:
    """Give the jobs that trained on any of these data sets, the oldest first."""
    query = select(JOBS).where(JOBS.c.tenant == tenant).order_by(JOBS.c.created_at, JOBS.c.id)
    rows = connection.execute(query).mappings()
    return [run for row in rows if (run := _run(row)).dataset in found]


def _run(row: RowMapping) -> Run:
    stages = row["stages"] or {}
    version = (stages.get("register") or {}).get("version")
    dataset = str((stages.get("snapshot") or {}).get("digest", ""))
    number = version if isinstance(version, int) else None
    return Run(row["id"], row["alias"], row["state"], dataset, number)
