"""Golden items that are erased, and the measurements that hold their texts.

A golden set is known by its content, so one that has lost an item is followed by a new version; the
older version keeps the item's place, without its texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, or_, select, update

from feedback.data import repository
from feedback.data.golden import GoldenItem, golden_digest
from feedback.data.rows import row_digest
from feedback.erasure import tombstones
from feedback.erasure.derived import Item
from feedback.erasure.tombstones import Whose
from feedback.tables import EVALUATIONS, GATE_REPORTS, GOLDEN_ITEMS, GOLDEN_SETS


def blank_items(
    connection: Connection, tenant: str, items: Iterable[Item], now: float
) -> Counter[str]:
    """Take the texts out of golden items, which are not taken up again."""
    which = [
        and_(GOLDEN_ITEMS.c.set_id == set_id, GOLDEN_ITEMS.c.item_id == item_id)
        for set_id, item_id in items
    ]
    if not which:
        return Counter()
    query = select(GOLDEN_ITEMS, GOLDEN_SETS.c.alias).join(
        GOLDEN_SETS, GOLDEN_SETS.c.id == GOLDEN_ITEMS.c.set_id
    )
    rows = connection.execute(query.where(or_(*which))).mappings().all()
    names = {item_name(row["alias"], row["input"], row["output"]) for row in rows}
    tombstones.put(connection, tenant, "golden", dict.fromkeys(names, Whose()), now)
    blank = {"instruction": "", "input": "", "output": "", "erased_at": now}
    connection.execute(update(GOLDEN_ITEMS).where(or_(*which)).values(**blank))
    return Counter({"golden_items": len(rows)})


def item_name(alias: str, asked: str, said: str) -> str:
    """Name a golden item as its tombstone does."""
    return f"{alias}/{row_digest(asked, said)}"


def renew(connection: Connection, tenant: str, now: float) -> Counter[str]:
    """Follow up what `blank_items` has done, whenever that was.

    Golden sets in force get a version without the erased items; evaluations on the older versions
    go, and out of gates' reports their examples.
    """
    query = (
        select(GOLDEN_SETS.c.alias, GOLDEN_SETS.c.digest, GOLDEN_ITEMS.c.item_id)
        .join(GOLDEN_ITEMS, GOLDEN_ITEMS.c.set_id == GOLDEN_SETS.c.id)
        .where(GOLDEN_SETS.c.tenant == tenant, GOLDEN_ITEMS.c.erased_at.is_not(None))
    )
    erased: dict[str, set[str]] = defaultdict(set)
    aliases = set()
    for alias, digest, item_id in connection.execute(query):
        aliases.add(alias)
        erased[digest].add(item_id)
    for alias in sorted(aliases):
        _renew_set(connection, tenant, alias, now)
    if not erased:
        return Counter()
    on_older = EVALUATIONS.c.body["golden_digest"].as_string().in_(sorted(erased))
    gone = connection.execute(delete(EVALUATIONS).where(EVALUATIONS.c.tenant == tenant, on_older))
    return Counter(
        {"evaluations": gone.rowcount, "gate_reports": _clean_reports(connection, tenant, erased)}
    )


def _renew_set(connection: Connection, tenant: str, alias: str, now: float) -> None:
    newest = repository.newest_golden(connection, tenant, alias)
    rows = repository.golden_items(connection, newest["id"]) if newest is not None else []
    left = [GoldenItem.of(row) for row in rows if row["erased_at"] is None]
    if len(left) == len(rows) or not left:
        return
    digest = golden_digest(tenant, alias, left)
    values = {"tenant": tenant, "alias": alias, "digest": digest, "created_at": now}
    items = [item.values(place) for place, item in enumerate(left)]
    repository.insert_golden(connection, values, items)


def _clean_reports(connection: Connection, tenant: str, erased: dict[str, set[str]]) -> int:
    query = select(GATE_REPORTS.c.id, GATE_REPORTS.c.report).where(
        GATE_REPORTS.c.tenant == tenant,
        GATE_REPORTS.c.report["golden_digest"].as_string().in_(sorted(erased)),
    )
    cleaned = 0
    for report_id, report in connection.execute(query).all():
        new = _without_examples(report, erased[report["golden_digest"]])
        if new is not None:
            change = update(GATE_REPORTS).where(GATE_REPORTS.c.id == report_id)
            connection.execute(change.values(report=new))
            cleaned += 1
    return cleaned


def _without_examples(report: dict[str, Any], erased: Collection[str]) -> dict[str, Any] | None:
    """Give a report without examples of erased items, or None where it has none."""
    changed = report.get("changed") or {}
    left = {
        kind: [one for one in examples if one.get("item_id") not in erased]
        for kind, examples in changed.items()
    }
    if left == changed:
        return None
    # The page for people holds the same examples as text.
    return {name: value for name, value in report.items() if name != "markdown"} | {"changed": left}


def has_erased(connection: Connection, tenant: str, digest: Any) -> bool:
    """Whether a version of a golden set has lost an item."""
    if not isinstance(digest, str):
        return False
    query = (
        select(GOLDEN_ITEMS.c.item_id)
        .join(GOLDEN_SETS, GOLDEN_SETS.c.id == GOLDEN_ITEMS.c.set_id)
        .where(
            GOLDEN_SETS.c.tenant == tenant,
            GOLDEN_SETS.c.digest == digest,
            GOLDEN_ITEMS.c.erased_at.is_not(None),
        )
    )
    return connection.scalar(query.limit(1)) is not None


def erased_among(
    connection: Connection, tenant: str, alias: str, items: Sequence[GoldenItem]
) -> str | None:
    """Give the id of one of these items that was erased, None where there is none."""
    names = {item_name(alias, item.input, item.output): item.id for item in items}
    known = tombstones.known(connection, tenant, "golden", names)
    return min((names[name] for name in known), default=None)
