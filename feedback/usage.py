"""What was used, per tenant, day, alias, version and key: counted as records come into the store.

A capture is counted in its own transaction; of a call without one, its `Use` is counted and its id
kept. So each call counts once by its id, however often its record is shipped, and the counts stay
when captures and ids expire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects import postgresql, sqlite

from feedback.db import reading
from feedback.repository import insert_once
from feedback.tables import COUNTED, USAGE
from feedback.types import Use, model_of

_KEY = ("tenant", "day", "alias", "version", "key_id")
_COUNTS = ("requests", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Used:
    """One line of a tenant's usage: calls and tokens of a key with a version on a day (UTC)."""

    day: str
    tenant: str
    alias: str
    version: int
    key_id: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


def day_of(at: float) -> str:
    """Give the day of a time, `2026-11-24`, in UTC."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def count_uses(connection: Connection, uses: Sequence[Use], keep_until: float) -> int:
    """Add calls of which no answer is kept, each once by its id; gives how many were new."""
    rows = [{"id": use.id, "keep_until": keep_until} for use in sorted(uses, key=_by_id)]
    new = set(insert_once(connection, COUNTED, rows, COUNTED.c.id))
    count(connection, [msgspec.structs.asdict(use) for use in uses if use.id in new])
    return len(new)


def _by_id(use: Use) -> str:
    return use.id


def count(connection: Connection, captures: Sequence[Mapping[str, Any]]) -> None:
    """Add captures that are new to the store, or what else has these columns of theirs."""
    lines: dict[tuple[Any, ...], list[int]] = {}
    for capture in captures:
        alias, _, version = model_of(capture).rpartition("@")
        key = (
            capture["tenant"],
            day_of(capture["started"]),
            alias,
            int(version),
            capture["key_id"],
        )
        used = capture["usage"]
        line = lines.setdefault(key, [0, 0, 0])
        line[0] += 1
        line[1] += used.get("prompt_tokens", 0)
        line[2] += used.get("completion_tokens", 0)
    # In one order everywhere, so that two shippers cannot wait for each other.
    for key, counts in sorted(lines.items()):
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(USAGE).values(
            **dict(zip(_KEY, key, strict=True)), **dict(zip(_COUNTS, counts, strict=True))
        )
        added = {name: USAGE.c[name] + statement.excluded[name] for name in _COUNTS}
        connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=added))


def usage_of(
    engine: Engine, tenant: str, since: str, until: str, aliases: Sequence[str] | None = None
) -> list[Used]:
    """Give a tenant's usage from day to day, both included; of all aliases where None. Blocks."""
    columns = [USAGE.c[field.name] for field in fields(Used)]
    query = (
        select(*columns)
        .where(USAGE.c.tenant == tenant, USAGE.c.day >= since, USAGE.c.day <= until)
        .order_by(*columns[: len(_KEY)])
    )
    if aliases is not None:
        query = query.where(USAGE.c.alias.in_(aliases))
    with reading(engine) as connection:
        return [Used(*row) for row in connection.execute(query)]


def tokens_of(engine: Engine, keys: Sequence[int], since: str) -> int:
    """Give the tokens that these keys have used from a day on. Blocks."""
    total = func.coalesce(func.sum(USAGE.c.prompt_tokens + USAGE.c.completion_tokens), 0)
    query = select(total).where(USAGE.c.key_id.in_(keys), USAGE.c.day >= since)
    with reading(engine) as connection:
        return int(connection.scalar(query) or 0)
