"""Pages of lists that grow, the newest first: each begins after the last entry of the one before.

No numbers of pages: entries that are added meanwhile would move others from one to the next.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, or_

from feedback.errors import Invalid


def beyond(
    connection: Connection,
    mine: Select[Any],
    after: str | None,
    key: ColumnElement[str],
    at: ColumnElement[float],
) -> Select[Any]:
    """Narrow `mine` to what follows the entry `after` in the order `newest` gives.

    Raises `Invalid` where there is no such entry among `mine`.
    """
    if after is None:
        return mine
    then = connection.scalar(mine.with_only_columns(at).where(key == after))
    if then is None:
        raise unknown(after)
    return mine.where(or_(at < then, and_(at == then, key > after)))


def newest(
    query: Select[Any], key: ColumnElement[str], at: ColumnElement[float], limit: int
) -> Select[Any]:
    """Order by time, the newest first, and by `key` where times are the same."""
    return query.order_by(at.desc(), key).limit(limit)


def unknown(after: str) -> Invalid:
    """Give the error for a page that is to begin after what is not in the list."""
    return Invalid(
        f"There is no entry {after!r} to go on after: give the `last_id` of the page before.",
        param="after",
    )
