"""Queries on tombstones. Nothing here opens or ends a transaction.

Who brings something in asks the tombstones under `share`, and an erasure works under `lock`: so
nothing slips in between the asking and the keeping.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite

from feedback.erasure.tables import TOMBSTONES

_LOCK = 0x65726173
"""The advisory lock of erasures, on PostgreSQL; SQLite has one writer anyway."""
_SKEW_S = 5.0
"""Clocks of gateways may differ so much from the database's: rather too much is left out."""
_AT_ONCE = 500

_T = TOMBSTONES.c


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose something was that is erased, as far as that is known."""

    session: str | None = None
    key_id: int | None = None
    response_id: str | None = None


def share(connection: Connection) -> None:
    """Keep erasures out until this transaction ends; others who bring things in are let in."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _LOCK})


def lock(connection: Connection) -> None:
    """Keep all out who bring things in, until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def put(
    connection: Connection, tenant: str, kind: str, whose: Mapping[str, Whose], now: float
) -> None:
    """Put tombstones by value; one that is there gets the later time, and what it lacks."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(TOMBSTONES)
    new = statement.excluded
    names = ("session", "key_id", "response_id")
    merged = {name: func.coalesce(_T[name], new[name]) for name in names}
    statement = statement.on_conflict_do_update(
        index_elements=["tenant", "kind", "value"], set_={"at": new.at, **merged}
    )
    rows = [
        {
            "tenant": tenant,
            "kind": kind,
            "value": value,
            "session": one.session,
            "key_id": one.key_id,
            "response_id": one.response_id,
            "at": now,
        }
        for value, one in sorted(whose.items())
    ]
    if rows:
        connection.execute(statement, rows)


def known(connection: Connection, tenant: str, kind: str, values: Iterable[str]) -> set[str]:
    """Give which of these have a tombstone."""
    wanted, found = sorted(set(values)), set[str]()
    for at in range(0, len(wanted), _AT_ONCE):
        query = select(_T.value).where(
            _T.tenant == tenant, _T.kind == kind, _T.value.in_(wanted[at : at + _AT_ONCE])
        )
        found.update(connection.scalars(query))
    return found


def imports(connection: Connection, tenant: str, alias: str) -> set[str]:
    """Give the digests, as their files had them, of imported rows of an alias that were erased."""
    query = select(_T.value).where(
        _T.tenant == tenant, _T.kind == "import", _T.value.startswith(f"{alias}/", autoescape=True)
    )
    return {value.rpartition("/")[2] for value in connection.scalars(query)}


def is_erased(connection: Connection, tenant: str, response_id: str) -> bool:
    """Whether an answer was erased."""
    return bool(known(connection, tenant, "response", [response_id]))


def erased_answers(
    connection: Connection, tenant: str, answers: Sequence[Mapping[str, Any]]
) -> set[str]:
    """Give the ids of those answers, or pairs, that must not be kept.

    They have `id`, `session`, `started` and, where known, `key_id`.
    """
    before = _of(connection, tenant, answers)
    return {
        answer["id"]
        for answer in answers
        if ("response", answer["id"]) in before
        or any(
            answer["started"] <= before.get(name, -math.inf) + _SKEW_S for name in _named(answer)
        )
    }


def _named(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (("session", answer["session"]), ("key", answer.get("key_id")))
    return [(kind, str(value)) for kind, value in names if value is not None]


def _of(
    connection: Connection, tenant: str, answers: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], float]:
    names = {name for answer in answers for name in _named(answer)}
    names |= {("response", answer["id"]) for answer in answers}
    conditions = [
        and_(_T.kind == kind, _T.value.in_(sorted(v for k, v in names if k == kind)))
        for kind in sorted({kind for kind, _ in names})
    ]
    if not conditions:
        return {}
    query = select(_T.kind, _T.value, _T.at).where(_T.tenant == tenant, or_(*conditions))
    return {(kind, value): at for kind, value, at in connection.execute(query)}


def uncounted(connection: Connection, tenant: str, ids: Collection[str]) -> set[str]:
    """Give which of these erased answers never were in the store, so were never counted."""
    query = select(_T.value).where(
        _T.tenant == tenant,
        _T.kind == "response",
        _T.value.in_(sorted(ids)),
        _T.key_id.is_not(None),
    )
    return set(ids) - set(connection.scalars(query))
