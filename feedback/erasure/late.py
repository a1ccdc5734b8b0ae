"""What comes in after its person was erased: it is left out, and only what it used is counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete

from feedback import usage
from feedback.erasure import tombstones
from feedback.erasure.tombstones import Whose
from feedback.tables import FEEDBACK, SHADOW_PAIRS

Values = Mapping[str, Any]


def without_erased(connection: Connection, captures: Iterable[Values], now: float) -> list[Values]:
    """Give the captures that may be kept, under the tombstones' shared lock.

    Each of the others gets a tombstone of its own, which also holds feedback that comes later
    still; feedback that was there before goes.
    """
    by_tenant: dict[str, list[Values]] = defaultdict(list)
    for capture in captures:
        by_tenant[capture["tenant"]].append(capture)
    kept: list[Values] = []
    for tenant in sorted(by_tenant):
        some = by_tenant[tenant]
        gone = tombstones.erased_answers(connection, tenant, some)
        kept += [capture for capture in some if capture["id"] not in gone]
        if gone:
            _count_only(connection, tenant, [one for one in some if one["id"] in gone], now)
    return kept


def _count_only(connection: Connection, tenant: str, captures: list[Values], now: float) -> None:
    ids = sorted(capture["id"] for capture in captures)
    new = tombstones.uncounted(connection, tenant, ids)
    usage.count(connection, [capture for capture in captures if capture["id"] in new])
    whose = {one["id"]: Whose(one["session"], one["key_id"], one["id"]) for one in captures}
    tombstones.put(connection, tenant, "response", whose, now)
    for table, column in ((FEEDBACK, "response_id"), (SHADOW_PAIRS, "id")):
        connection.execute(delete(table).where(table.c.tenant == tenant, table.c[column].in_(ids)))


def pairs_without_erased(connection: Connection, pairs: Iterable[Values]) -> list[Values]:
    """Give the pairs of a shadow that may be kept, under the tombstones' shared lock."""
    by_tenant: dict[str, list[Values]] = defaultdict(list)
    for pair in pairs:
        by_tenant[pair["tenant"]].append(pair)
    return [
        pair
        for tenant, some in sorted(by_tenant.items())
        for gone in (tombstones.erased_answers(connection, tenant, some),)
        for pair in some
        if pair["id"] not in gone
    ]
