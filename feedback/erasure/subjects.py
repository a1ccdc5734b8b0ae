"""Whose rows are erased, and which answers and imported rows are theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, false, or_, select

from feedback.erasure.tables import TOMBSTONES
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS, SHADOW_PAIRS, TICKETS


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whose rows are erased: all that any of these names.

    `sessions` are pseudonyms, `keys` and `tickets` the ids of API keys and of imported rows.
    """

    sessions: frozenset[str] = frozenset()
    responses: frozenset[str] = frozenset()
    keys: frozenset[int] = frozenset()
    tickets: frozenset[int] = frozenset()

    def as_dict(self) -> dict[str, list[Any]]:
        """Give them as JSON, for the record."""
        named = {field.name: sorted(getattr(self, field.name)) for field in fields(self)}
        return {name: values for name, values in named.items() if values}

    def __bool__(self) -> bool:
        return bool(self.as_dict())


_SOURCES: tuple[tuple[Table, str], ...] = (
    (CAPTURES, "id"),
    (REVIEW_ITEMS, "response_id"),
    (FEEDBACK, "response_id"),
    (SHADOW_PAIRS, "id"),
)
"""Tables that name an answer with its session, and the column of its id."""


def find_answers(connection: Connection, tenant: str, subjects: Subjects) -> list[str]:
    """Give the ids of all answers that are theirs, those that were erased before included."""
    found = set(subjects.responses)
    for table, column in _SOURCES:
        # The key of feedback is whoever sent it; that of an answer stands with the answer.
        keys = subjects.keys if table is not FEEDBACK and "key_id" in table.c else ()
        mine = and_(table.c.tenant == tenant, _of(table, subjects.sessions, keys))
        found.update(connection.scalars(select(table.c[column]).where(mine)))
    before = and_(TOMBSTONES.c.tenant == tenant, TOMBSTONES.c.kind == "response")
    mine = and_(before, _of(TOMBSTONES, subjects.sessions, subjects.keys))
    found.update(connection.scalars(select(TOMBSTONES.c.value).where(mine)))
    return sorted(found)


def _of(table: Table, sessions: Collection[str], keys: Collection[int]) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [false()]
    if sessions:
        conditions.append(table.c.session.in_(sorted(sessions)))
    if keys:
        conditions.append(table.c.key_id.in_(sorted(keys)))
    return or_(*conditions)


def find_tickets(connection: Connection, tenant: str, subjects: Subjects) -> dict[int, str | None]:
    """Give the imported rows that are theirs, with the session where that is why."""
    found: dict[int, str | None] = dict.fromkeys(subjects.tickets)
    if subjects.sessions:
        query = select(TICKETS.c.id, TICKETS.c.split_key).where(
            TICKETS.c.tenant == tenant, TICKETS.c.split_key.in_(sorted(subjects.sessions))
        )
        found |= {row.id: row.split_key for row in connection.execute(query)}
    return found


def erased_tickets(
    connection: Connection, tenant: str, subjects: Subjects, answers: Iterable[str]
) -> set[int]:
    """Give the imported rows that were erased as theirs, now or before."""
    query = select(TOMBSTONES.c.value, TOMBSTONES.c.session, TOMBSTONES.c.response_id).where(
        TOMBSTONES.c.tenant == tenant, TOMBSTONES.c.kind == "ticket"
    )
    of_answers: Mapping[str, None] = dict.fromkeys(answers)
    return {
        int(value)
        for value, session, response_id in connection.execute(query)
        if session in subjects.sessions
        or response_id in of_answers
        or int(value) in subjects.tickets
    }
