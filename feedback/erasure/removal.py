"""Takes answers and imported rows out of the store, with all that hangs on them.

Each function is a step of an erasure: it works under the tombstones' lock, counts what it erased by
kind, and leaves tombstones for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, delete, select

from feedback.erasure import golden, tombstones
from feedback.erasure.derived import Derived, words_of
from feedback.erasure.tombstones import Whose
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS, REVIEWS, SHADOW_PAIRS, TICKETS


def remove_answers(
    connection: Connection, tenant: str, ids: Sequence[str], derived: Derived, now: float
) -> tuple[Counter[str], set[int]]:
    """Erase some answers; gives the counts, and the imported rows that went with them."""
    answers = _locked(connection, CAPTURES, tenant, "id", ids)
    items = _locked(connection, REVIEW_ITEMS, tenant, "response_id", ids)
    feedback = _locked(connection, FEEDBACK, tenant, "response_id", ids)
    item_ids = [item["id"] for item in items]
    in_items = REVIEWS.c.item_id.in_(item_ids)
    reviews = connection.execute(select(REVIEWS).where(in_items)).mappings().all()
    whose = _whose(ids, answers, items, feedback)
    tombstones.put(connection, tenant, "response", whose, now)

    words = _words(answers, items, reviews, feedback)
    tickets = {
        ticket: whose[response_id] for ticket, response_id in derived.take_tickets(words).items()
    }
    counts = remove_tickets(connection, tenant, tickets, now)
    counts += golden.blank_items(connection, tenant, derived.take_items(words), now)

    corrected = [row for row in (*reviews, *feedback) if row["correction"]]
    counts += Counter({"corrections": len(corrected), "reviews": len(reviews)})
    connection.execute(delete(REVIEWS).where(in_items))
    connection.execute(delete(REVIEW_ITEMS).where(REVIEW_ITEMS.c.id.in_(item_ids)))
    counts["review_items"] += len(items)
    for name, table, column in (
        ("feedback", FEEDBACK, "response_id"),
        ("answers", CAPTURES, "id"),
        ("shadow_pairs", SHADOW_PAIRS, "id"),
    ):
        which = (table.c.tenant == tenant, table.c[column].in_(ids))
        counts[name] += connection.execute(delete(table).where(*which)).rowcount
    return counts, set(tickets)


def _locked(
    connection: Connection, table: Table, tenant: str, column: str, ids: Sequence[str]
) -> Sequence[RowMapping]:
    # In one order: a reviewer who decides, and a flag that comes, wait or have come before.
    query = select(table).where(table.c.tenant == tenant, table.c[column].in_(ids))
    return connection.execute(query.order_by(table.c.id).with_for_update()).mappings().all()


def _whose(
    ids: Iterable[str],
    answers: Iterable[RowMapping],
    items: Iterable[RowMapping],
    feedback: Iterable[RowMapping],
) -> dict[str, Whose]:
    whose = {response_id: Whose(response_id=response_id) for response_id in ids}
    for row in feedback:
        whose[row["response_id"]] = Whose(row["session"], None, row["response_id"])
    for row in items:
        whose[row["response_id"]] = Whose(row["session"], row["key_id"], row["response_id"])
    for row in answers:
        whose[row["id"]] = Whose(row["session"], row["key_id"], row["id"])
    return whose


def _words(
    answers: Iterable[RowMapping],
    items: Iterable[RowMapping],
    reviews: Iterable[RowMapping],
    feedback: Iterable[RowMapping],
) -> dict[str, str]:
    """Give what the answers say, in the form of `Derived`, with the answers' ids."""
    of_item = {item["id"]: item["response_id"] for item in items}
    corrections: dict[str, list[str]] = defaultdict(list)
    for row in reviews:
        corrections[of_item[row["item_id"]]].append(row["correction"])
    for row in feedback:
        corrections[row["response_id"]].append(row["correction"])
    return {
        words: answer["id"]
        for answer in answers
        for words in words_of(answer, corrections[answer["id"]])
    }


def remove_tickets(
    connection: Connection, tenant: str, whose: Mapping[int, Whose], now: float
) -> Counter[str]:
    """Erase imported rows; the same rows are not imported again."""
    mine = (TICKETS.c.tenant == tenant, TICKETS.c.id.in_(sorted(whose)))
    query = select(TICKETS.c.id, TICKETS.c.alias, TICKETS.c.digest).where(*mine)
    rows: Sequence[Any] = connection.execute(query).all()
    tombstones.put(connection, tenant, "ticket", {str(row.id): whose[row.id] for row in rows}, now)
    imports = {f"{row.alias}/{row.digest}": whose[row.id] for row in rows}
    tombstones.put(connection, tenant, "import", imports, now)
    connection.execute(delete(TICKETS).where(*mine))
    return Counter({"imported_rows": len(rows)})


def remove_feedback_of_keys(connection: Connection, tenant: str, keys: Iterable[int]) -> int:
    """Erase what was sent with some keys of other keys' answers; gives how much there was."""
    which = (FEEDBACK.c.tenant == tenant, FEEDBACK.c.key_id.in_(sorted(keys)))
    return connection.execute(delete(FEEDBACK).where(*which)).rowcount
