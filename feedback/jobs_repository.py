"""Queries on jobs. Nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping, and_, case, or_, select, text, update

from feedback.paging import beyond, newest
from feedback.tables import JOBS

_LOCK = 0x6A6F6273
"""The advisory lock under which jobs are added, on PostgreSQL; SQLite has one writer anyway."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which job a trainer asks for; None leaves `job_id` or `aliases` open."""

    tenant: str
    holder: str
    kinds: Sequence[str]
    job_id: str | None = None
    aliases: Collection[str] | None = None


def lock(connection: Connection) -> None:
    """Let others who add jobs wait until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def insert(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a job."""
    connection.execute(sa.insert(JOBS).values(**values))


def get(
    connection: Connection, tenant: str, job_id: str, *, lock: bool = False
) -> RowMapping | None:
    """Give a job of a tenant; with `lock`, nobody else changes it before this ends."""
    query = select(JOBS).where(JOBS.c.tenant == tenant, JOBS.c.id == job_id)
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def find(
    connection: Connection,
    tenant: str,
    alias: str | None,
    state: str | None,
    limit: int,
    aliases: Collection[str] | None,
    after: str | None,
) -> Sequence[RowMapping]:
    """Give jobs, the newest first, from beyond the job `after`. Raises `Invalid`."""
    mine = select(JOBS).where(JOBS.c.tenant == tenant)
    if aliases is not None:
        mine = mine.where(JOBS.c.alias.in_(aliases))
    # Before the other filters: the state of the job that a page ended with may have changed.
    query = beyond(connection, mine, after, JOBS.c.id, JOBS.c.created_at)
    if alias is not None:
        query = query.where(JOBS.c.alias == alias)
    if state is not None:
        query = query.where(JOBS.c.state == state)
    ordered = newest(query, JOBS.c.id, JOBS.c.created_at, limit)
    return connection.execute(ordered).mappings().all()


def unfinished(connection: Connection, tenant: str, kind: str, alias: str) -> RowMapping | None:
    """Give the job of this kind and alias that waits or runs."""
    query = select(JOBS).where(
        JOBS.c.tenant == tenant,
        JOBS.c.kind == kind,
        JOBS.c.alias == alias,
        JOBS.c.state.in_(("queued", "running")),
    )
    return connection.execute(query.limit(1)).mappings().first()


def claimable(connection: Connection, wanted: Wanted, now: float) -> str | None:
    """Give the id of the job that is to be taken: the holder's own, else the oldest free one."""
    query = select(JOBS.c.id).where(
        JOBS.c.tenant == wanted.tenant,
        JOBS.c.kind.in_(wanted.kinds),
        _free(wanted.holder, now),
    )
    if wanted.job_id is not None:
        query = query.where(JOBS.c.id == wanted.job_id)
    if wanted.aliases is not None:
        query = query.where(JOBS.c.alias.in_(wanted.aliases))
    is_own = case((JOBS.c.lease_holder == wanted.holder, 0), else_=1)
    return connection.scalar(query.order_by(is_own, JOBS.c.created_at, JOBS.c.id).limit(1))


def take(connection: Connection, job_id: str, holder: str, values: Mapping[str, Any]) -> bool:
    """Take a job if it is still free; whether it was."""
    now = values["updated_at"]
    done = connection.execute(
        update(JOBS).where(JOBS.c.id == job_id, _free(holder, now)).values(**values)
    )
    return done.rowcount == 1


def change(
    connection: Connection, tenant: str, job_id: str, values: Mapping[str, Any]
) -> RowMapping:
    """Change a job and give it as it is then."""
    mine = and_(JOBS.c.tenant == tenant, JOBS.c.id == job_id)
    connection.execute(update(JOBS).where(mine).values(**values))
    return connection.execute(select(JOBS).where(mine)).mappings().one()


def _free(holder: str, now: float) -> Any:
    gone = or_(JOBS.c.lease_until < now, JOBS.c.lease_holder == holder)
    return or_(JOBS.c.state == "queued", and_(JOBS.c.state == "running", gone))
