"""Queries on review items and reviews. Nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS, REVIEWS

ITEMS = REVIEW_ITEMS.c


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which items of a tenant: `filters` may hold alias, reason and status.

    Only those of `aliases`, where that is given. A claim that has run out by `now` counts as open,
    and so does one of the reviewer `me`.
    """

    tenant: str
    filters: Mapping[str, str]
    now: float
    aliases: Collection[str] | None = None
    me: str | None = None


def find(
    connection: Connection, wanted: Wanted, *, after: int | None, limit: int
) -> Sequence[RowMapping]:
    """Give items, the most pressing first, from beyond the item `after`."""
    tenant = wanted.tenant
    query = select(REVIEW_ITEMS).where(*_conditions(wanted))
    if after is not None:
        last = select(ITEMS.priority).where(ITEMS.tenant == tenant, ITEMS.id == after)
        priority = last.scalar_subquery()
        query = query.where(
            or_(ITEMS.priority < priority, and_(ITEMS.priority == priority, ITEMS.id > after))
        )
    ordered = query.order_by(ITEMS.priority.desc(), ITEMS.id).limit(limit)
    return connection.execute(ordered).mappings().all()


def count(connection: Connection, wanted: Wanted) -> dict[tuple[str, str], int]:
    """Count items by alias and reason."""
    query = (
        select(ITEMS.alias, ITEMS.reason, func.count())
        .where(*_conditions(wanted))
        .group_by(ITEMS.alias, ITEMS.reason)
    )
    return {(alias, reason): n for alias, reason, n in connection.execute(query)}


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    filters = wanted.filters
    found = [ITEMS.tenant == wanted.tenant]
    found += [ITEMS[name] == filters[name] for name in ("alias", "reason") if name in filters]
    if wanted.aliases is not None:
        found.append(ITEMS.alias.in_(sorted(wanted.aliases)))
    if "status" in filters:
        found.append(_in_status(filters["status"], wanted))
    return found


def _in_status(status: str, wanted: Wanted) -> ColumnElement[bool]:
    claimed, over = ITEMS.status == "claimed", ITEMS.claimed_until <= wanted.now
    match status:
        case "open":
            free = or_(over, ITEMS.claimed_by == wanted.me)
            return or_(ITEMS.status == "open", and_(claimed, free))
        case "claimed":
            return and_(claimed, ~over)
        case _:
            return ITEMS.status == status


def get(connection: Connection, tenant: str, item_id: int, *, lock: bool = False) -> Any:
    """Give an item; with `lock`, nobody else changes it before this ends."""
    query = select(REVIEW_ITEMS).where(ITEMS.tenant == tenant, ITEMS.id == item_id)
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def change(connection: Connection, item_id: int, values: Mapping[str, Any]) -> None:
    """Change an item that is locked."""
    connection.execute(update(REVIEW_ITEMS).where(ITEMS.id == item_id).values(**values))


def add_review(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a verdict."""
    connection.execute(insert(REVIEWS).values(**values))


def newest_review(connection: Connection, item_id: int) -> RowMapping | None:
    """Give the latest verdict on an item that was not undone."""
    query = (
        select(REVIEWS)
        .where(REVIEWS.c.item_id == item_id, REVIEWS.c.undone_at.is_(None))
        .order_by(REVIEWS.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().first()


def undo(connection: Connection, review_id: int, now: float) -> None:
    """Note that a verdict was taken back."""
    connection.execute(update(REVIEWS).where(REVIEWS.c.id == review_id).values(undone_at=now))


def answers(
    connection: Connection, tenant: str, response_ids: Sequence[str]
) -> dict[str, RowMapping]:
    """Give captures by their ids."""
    query = select(CAPTURES).where(CAPTURES.c.tenant == tenant, CAPTURES.c.id.in_(response_ids))
    return {row["id"]: row for row in connection.execute(query).mappings()}


def said(connection: Connection, tenant: str, response_ids: Sequence[str]) -> Sequence[RowMapping]:
    """Give all feedback on several answers, oldest first."""
    query = (
        select(FEEDBACK)
        .where(FEEDBACK.c.tenant == tenant, FEEDBACK.c.response_id.in_(response_ids))
        .order_by(FEEDBACK.c.created_at, FEEDBACK.c.id)
    )
    return connection.execute(query).mappings().all()


def reviews(connection: Connection, item_ids: Sequence[int]) -> Sequence[RowMapping]:
    """Give all verdicts on several items, oldest first."""
    query = select(REVIEWS).where(REVIEWS.c.item_id.in_(item_ids)).order_by(REVIEWS.c.id)
    return connection.execute(query).mappings().all()
