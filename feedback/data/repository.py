"""Queries on tickets, golden sets and data sets. Nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, insert, or_, select

from feedback.paging import beyond, newest
from feedback.repository import insert_once
from feedback.tables import (
    CAPTURES,
    DATASET_ROWS,
    DATASETS,
    GOLDEN_ITEMS,
    GOLDEN_SETS,
    REVIEW_ITEMS,
    REVIEWS,
    TICKETS,
)

Values = Mapping[str, Any]


def has_tickets(connection: Connection, tenant: str, alias: str) -> bool:
    """Whether any row was imported."""
    query = select(TICKETS.c.id).where(TICKETS.c.tenant == tenant, TICKETS.c.alias == alias)
    return connection.scalar(query.limit(1)) is not None


def known_tickets(connection: Connection, tenant: str, alias: str) -> set[str]:
    """Give the digests of all imported rows."""
    query = select(TICKETS.c.digest).where(TICKETS.c.tenant == tenant, TICKETS.c.alias == alias)
    return set(connection.scalars(query))


def insert_tickets(connection: Connection, rows: Sequence[Values]) -> int:
    """Add imported rows, each once; gives how many were new."""
    return len(insert_once(connection, TICKETS, rows, TICKETS.c.id))


def tickets(connection: Connection, tenant: str, alias: str) -> Sequence[RowMapping]:
    """Give all imported rows."""
    query = select(TICKETS).where(TICKETS.c.tenant == tenant, TICKETS.c.alias == alias)
    return connection.execute(query.order_by(TICKETS.c.id)).mappings().all()


def reviewed(connection: Connection, tenant: str, alias: str) -> Sequence[RowMapping]:
    """Give, with the answers, each reviewer's newest verdict on each that was not undone."""
    newest = (
        select(func.max(REVIEWS.c.id).label("id"))
        .where(REVIEWS.c.tenant == tenant, REVIEWS.c.undone_at.is_(None))
        .group_by(REVIEWS.c.item_id, REVIEWS.c.reviewer)
        .subquery()
    )
    query = (
        select(
            REVIEWS.c.id.label("review_id"),
            REVIEWS.c.item_id,
            REVIEWS.c.reviewer,
            REVIEWS.c.verdict,
            REVIEWS.c.correction,
            REVIEWS.c.created_at,
            CAPTURES.c.id.label("response_id"),
            CAPTURES.c.version,
            CAPTURES.c.messages,
            CAPTURES.c.parameters,
            CAPTURES.c.choices,
        )
        .join(newest, newest.c.id == REVIEWS.c.id)
        .join(REVIEW_ITEMS, REVIEW_ITEMS.c.id == REVIEWS.c.item_id)
        .join(
            CAPTURES,
            and_(CAPTURES.c.id == REVIEW_ITEMS.c.response_id, CAPTURES.c.tenant == tenant),
        )
        .where(REVIEW_ITEMS.c.tenant == tenant, REVIEW_ITEMS.c.alias == alias)
        .order_by(REVIEWS.c.id)
    )
    return connection.execute(query).mappings().all()


def count_since(connection: Connection, tenant: str, alias: str, since: float) -> int:
    """Count imports and verdicts that give a row, later than a time."""
    imports = select(func.count()).where(
        TICKETS.c.tenant == tenant, TICKETS.c.alias == alias, TICKETS.c.created_at > since
    )
    useful = or_(
        REVIEWS.c.verdict == "correct",
        and_(REVIEWS.c.verdict == "wrong", REVIEWS.c.correction.is_not(None)),
    )
    verdicts = (
        select(func.count())
        .select_from(REVIEWS)
        .join(REVIEW_ITEMS, REVIEW_ITEMS.c.id == REVIEWS.c.item_id)
        .where(
            REVIEW_ITEMS.c.tenant == tenant,
            REVIEW_ITEMS.c.alias == alias,
            REVIEWS.c.undone_at.is_(None),
            REVIEWS.c.created_at > since,
            useful,
        )
    )
    return int(connection.scalar(imports) or 0) + int(connection.scalar(verdicts) or 0)


def newest_golden(connection: Connection, tenant: str, alias: str) -> RowMapping | None:
    """Give the golden set in force."""
    query = (
        select(GOLDEN_SETS)
        .where(GOLDEN_SETS.c.tenant == tenant, GOLDEN_SETS.c.alias == alias)
        .order_by(GOLDEN_SETS.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().first()


def insert_golden(connection: Connection, values: Values, items: Sequence[Values]) -> None:
    """Add a version of a golden set."""
    statement = insert(GOLDEN_SETS).values(**values).returning(GOLDEN_SETS.c.id)
    set_id = connection.execute(statement).scalar_one()
    connection.execute(insert(GOLDEN_ITEMS), [{**item, "set_id": set_id} for item in items])


def golden_items(connection: Connection, set_id: int) -> Sequence[RowMapping]:
    """Give the items of one version, in order, those that were erased too."""
    query = select(GOLDEN_ITEMS).where(GOLDEN_ITEMS.c.set_id == set_id)
    return connection.execute(query.order_by(GOLDEN_ITEMS.c.position)).mappings().all()


def all_golden(connection: Connection, tenant: str, alias: str) -> list[tuple[str, str, str]]:
    """Give instruction, input and slice of every item that any version of the set has had."""
    query = (
        select(GOLDEN_ITEMS.c.instruction, GOLDEN_ITEMS.c.input, GOLDEN_ITEMS.c.slice)
        .join(GOLDEN_SETS, GOLDEN_SETS.c.id == GOLDEN_ITEMS.c.set_id)
        .where(
            GOLDEN_SETS.c.tenant == tenant,
            GOLDEN_SETS.c.alias == alias,
            GOLDEN_ITEMS.c.erased_at.is_(None),
        )
        .distinct()
    )
    return [(row.instruction, row.input, row.slice) for row in connection.execute(query)]


def has_empty_golden(connection: Connection, tenant: str, alias: str) -> bool:
    """Whether a version of the golden set has lost its items."""
    items = select(GOLDEN_ITEMS.c.set_id).where(GOLDEN_ITEMS.c.set_id == GOLDEN_SETS.c.id)
    query = select(GOLDEN_SETS.c.id).where(
        GOLDEN_SETS.c.tenant == tenant, GOLDEN_SETS.c.alias == alias, ~items.exists()
    )
    return connection.scalar(query.limit(1)) is not None


def get_dataset(connection: Connection, tenant: str, digest: str) -> RowMapping | None:
    """Give a data set."""
    query = select(DATASETS).where(DATASETS.c.tenant == tenant, DATASETS.c.digest == digest)
    return connection.execute(query).mappings().one_or_none()


def datasets(
    connection: Connection,
    tenant: str,
    alias: str | None,
    limit: int,
    *,
    aliases: Collection[str] | None = None,
    after: str | None = None,
) -> Sequence[RowMapping]:
    """Give data sets, the newest first, from beyond the one `after`. Raises `Invalid`."""
    mine = select(DATASETS).where(DATASETS.c.tenant == tenant)
    if aliases is not None:
        mine = mine.where(DATASETS.c.alias.in_(aliases))
    query = beyond(connection, mine, after, DATASETS.c.digest, DATASETS.c.created_at)
    if alias is not None:
        query = query.where(DATASETS.c.alias == alias)
    ordered = newest(query, DATASETS.c.digest, DATASETS.c.created_at, limit)
    return connection.execute(ordered).mappings().all()


def row_digests(connection: Connection, dataset_digest: str) -> set[str]:
    """Give the digests of a data set's rows."""
    query = select(DATASET_ROWS.c.row_digest).where(DATASET_ROWS.c.dataset_digest == dataset_digest)
    return set(connection.scalars(query))


def insert_dataset(connection: Connection, values: Values, rows: Sequence[Values]) -> bool:
    """Add a data set with its rows; False where it has come to be there meanwhile."""
    if not insert_once(connection, DATASETS, [values], DATASETS.c.digest):
        return False
    connection.execute(insert(DATASET_ROWS), [dict(row) for row in rows])
    return True


def dataset_rows(
    connection: Connection, digest: str, after: int, limit: int
) -> Sequence[RowMapping]:
    """Give rows of a data set, in order, from beyond position `after`."""
    query = (
        select(DATASET_ROWS)
        .where(DATASET_ROWS.c.dataset_digest == digest, DATASET_ROWS.c.position > after)
        .order_by(DATASET_ROWS.c.position)
        .limit(limit)
    )
    return connection.execute(query).mappings().all()


def reviews_of(connection: Connection, tenant: str, response_id: str) -> Sequence[RowMapping]:
    """Give all reviews of an answer, oldest first."""
    query = (
        select(REVIEWS, REVIEW_ITEMS.c.alias)
        .join(REVIEW_ITEMS, REVIEW_ITEMS.c.id == REVIEWS.c.item_id)
        .where(REVIEW_ITEMS.c.tenant == tenant, REVIEW_ITEMS.c.response_id == response_id)
        .order_by(REVIEWS.c.id)
    )
    return connection.execute(query).mappings().all()


def rows_from(connection: Connection, tenant: str, response_id: str) -> Sequence[RowMapping]:
    """Give the data sets' rows that came of an answer."""
    query = (
        select(
            DATASET_ROWS.c.dataset_digest,
            DATASET_ROWS.c.position,
            DATASET_ROWS.c.origin,
            DATASET_ROWS.c.erased_at,
            DATASETS.c.alias,
        )
        .join(DATASETS, DATASETS.c.digest == DATASET_ROWS.c.dataset_digest)
        .where(
            DATASETS.c.tenant == tenant,
            DATASET_ROWS.c.lineage["response_id"].as_string() == response_id,
        )
        .order_by(DATASETS.c.created_at, DATASET_ROWS.c.position)
    )
    return connection.execute(query).mappings().all()
