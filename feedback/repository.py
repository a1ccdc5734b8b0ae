"""Queries on captures, feedback and review items. Nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    and_,
    delete,
    exists,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from feedback.sampling import SamplingState
from feedback.tables import (
    CAPTURES,
    COUNTED,
    FEEDBACK,
    REVIEW_ITEMS,
    SAMPLING,
    SHADOW_PAIRS,
)

Values = Mapping[str, Any]


def insert_once(
    connection: Connection, table: Table, rows: Sequence[Values], returning: ColumnElement[Any]
) -> list[Any]:
    """Insert rows; those that would break a unique constraint are left out.

    Gives `returning` of the rows that went in, in no order.
    """
    if not rows:
        return []
    statement = _insert(connection, table).on_conflict_do_nothing().returning(returning)
    return list(connection.execute(statement, [dict(row) for row in rows]).scalars())


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


# -- captures ------------------------------------------------------------------------------------


def known_captures(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Give which of these captures are there."""
    return set(connection.scalars(select(CAPTURES.c.id).where(CAPTURES.c.id.in_(ids))))


def insert_captures(connection: Connection, rows: Sequence[Values]) -> None:
    """Add captures that are not there, as `known_captures` has said under the sampling's lock."""
    if rows:
        connection.execute(_insert(connection, CAPTURES), [dict(row) for row in rows])


def get_capture(
    connection: Connection, tenant: str, response_id: str, *, lock: bool = False
) -> RowMapping | None:
    """Give a capture of a tenant; with `lock`, nobody else changes it before this ends."""
    query = select(CAPTURES).where(CAPTURES.c.id == response_id, CAPTURES.c.tenant == tenant)
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def mark_capture(
    connection: Connection, response_id: str, reasons: Sequence[str], keep_until: float
) -> None:
    """Note why a capture is kept, and until when."""
    connection.execute(
        update(CAPTURES)
        .where(CAPTURES.c.id == response_id)
        .values(reasons=list(reasons), keep_until=keep_until)
    )


def expire(connection: Connection, now: float, limit: int = 1000) -> int:
    """Delete captures whose time is over, `limit` at most; gives how many there were.

    An answer that still waits for a reviewer stays.
    """
    waits = exists().where(
        REVIEW_ITEMS.c.tenant == CAPTURES.c.tenant,
        REVIEW_ITEMS.c.response_id == CAPTURES.c.id,
        REVIEW_ITEMS.c.status != "done",
    )
    return _delete_before(connection, CAPTURES, CAPTURES.c.keep_until, now, limit, ~waits)


def expire_counted(connection: Connection, now: float, limit: int = 1000) -> int:
    """Delete ids of counted calls whose time is over, `limit` at most; gives how many."""
    return _delete_before(connection, COUNTED, COUNTED.c.keep_until, now, limit)


def _delete_before(
    connection: Connection,
    table: Table,
    at: ColumnElement[float],
    before: float,
    limit: int,
    *conditions: ColumnElement[bool],
) -> int:
    """Delete the oldest rows, `limit` at most; gives how many."""
    old = select(table.c.id).where(at < before, *conditions).order_by(at).limit(limit)
    # The list is read first: PostgreSQL may plan a subquery with a limit anew for each row.
    ids = list(connection.scalars(old))
    if ids:
        connection.execute(delete(table).where(table.c.id.in_(ids)))
    return len(ids)


# -- shadow pairs --------------------------------------------------------------------------------


def insert_pairs(connection: Connection, rows: Sequence[Values]) -> None:
    """Add pairs; one that is there stays."""
    insert_once(connection, SHADOW_PAIRS, rows, SHADOW_PAIRS.c.id)


def expire_pairs(connection: Connection, before: float, limit: int = 1000) -> int:
    """Delete pairs of calls that began before a time, `limit` at most; gives how many."""
    return _delete_before(connection, SHADOW_PAIRS, SHADOW_PAIRS.c.started, before, limit)


# -- sampling ------------------------------------------------------------------------------------


def lock_sampling(
    connection: Connection, tenant: str, alias: str, now: float
) -> SamplingState | None:
    """Give what the sampling of an alias remembers; nobody else draws before this ends."""
    first = {"tenant": tenant, "alias": alias, "state": {}, "updated_at": now}
    insert_once(connection, SAMPLING, [first], SAMPLING.c.alias)
    query = select(SAMPLING.c.state).where(_sampled(tenant, alias)).with_for_update()
    state = connection.scalar(query)
    return msgspec.convert(state, SamplingState) if state else None


def read_sampling(connection: Connection, tenant: str, alias: str) -> SamplingState | None:
    """Give what the sampling of an alias remembers, without a lock."""
    state = connection.scalar(select(SAMPLING.c.state).where(_sampled(tenant, alias)))
    return msgspec.convert(state, SamplingState) if state else None


def save_sampling(
    connection: Connection, tenant: str, alias: str, state: SamplingState, now: float
) -> None:
    """Keep what the sampling of an alias remembers."""
    connection.execute(
        update(SAMPLING)
        .where(_sampled(tenant, alias))
        .values(state=msgspec.to_builtins(state), updated_at=now)
    )


def _sampled(tenant: str, alias: str) -> ColumnElement[bool]:
    return and_(SAMPLING.c.tenant == tenant, SAMPLING.c.alias == alias)


# -- feedback ------------------------------------------------------------------------------------


def get_feedback(connection: Connection, feedback_id: str) -> RowMapping | None:
    """Give a row of feedback."""
    query = select(FEEDBACK).where(FEEDBACK.c.id == feedback_id)
    return connection.execute(query).mappings().one_or_none()


def feedback_on(connection: Connection, tenant: str, response_id: str) -> Sequence[RowMapping]:
    """Give all feedback on an answer, oldest first."""
    query = (
        select(FEEDBACK)
        .where(FEEDBACK.c.tenant == tenant, FEEDBACK.c.response_id == response_id)
        .order_by(FEEDBACK.c.created_at, FEEDBACK.c.id)
    )
    return connection.execute(query).mappings().all()


def insert_feedback(connection: Connection, row: Values) -> bool:
    """Add feedback; tells whether it was not there."""
    return bool(insert_once(connection, FEEDBACK, [row], FEEDBACK.c.id))


def pending_with_capture(
    connection: Connection, ids: Iterable[str] | None = None, limit: int = 500
) -> Sequence[RowMapping]:
    """Give pending feedback whose capture is there by now; of some answers only, or of all."""
    query = (
        select(FEEDBACK)
        .join(
            CAPTURES,
            and_(CAPTURES.c.id == FEEDBACK.c.response_id, CAPTURES.c.tenant == FEEDBACK.c.tenant),
        )
        .where(FEEDBACK.c.status == "pending")
        .order_by(FEEDBACK.c.response_id, FEEDBACK.c.id)
        .limit(limit)
    )
    if ids is not None:
        query = query.where(FEEDBACK.c.response_id.in_(list(ids)))
    return connection.execute(query).mappings().all()


def set_linked(connection: Connection, feedback_id: str, session: str | None) -> None:
    """Note that the capture of a piece of feedback is there, and of which session it is."""
    values = {"status": "linked", "session": session}
    connection.execute(update(FEEDBACK).where(FEEDBACK.c.id == feedback_id).values(**values))


# -- review items --------------------------------------------------------------------------------


def insert_items(connection: Connection, rows: Sequence[Values]) -> None:
    """Add review items; an answer that has one keeps it."""
    insert_once(connection, REVIEW_ITEMS, rows, REVIEW_ITEMS.c.id)


def raise_to_flagged(
    connection: Connection, tenant: str, response_id: str, priority: float
) -> None:
    """Let an answer's review item be there for the flag; one that was done is opened again."""
    mine = and_(REVIEW_ITEMS.c.tenant == tenant, REVIEW_ITEMS.c.response_id == response_id)
    other = and_(mine, REVIEW_ITEMS.c.reason != "flagged")
    connection.execute(
        update(REVIEW_ITEMS)
        .where(other, REVIEW_ITEMS.c.status == "done")
        .values(status="open", claimed_by=None, claimed_until=None)
    )
    connection.execute(update(REVIEW_ITEMS).where(other).values(reason="flagged"))
    connection.execute(
        update(REVIEW_ITEMS)
        .where(mine, REVIEW_ITEMS.c.priority < priority)
        .values(priority=priority)
    )
