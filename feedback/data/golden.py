"""Golden sets as values: what they are known by, and what they must keep to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from feedback.data.rows import normal, row_digest
from feedback.errors import Invalid

MAX_ITEMS = 5000


@dataclass(frozen=True, slots=True)
class GoldenItem:
    """A query with its verified answer; the times, in seconds since the epoch, bound its use."""

    id: str
    instruction: str
    input: str
    output: str
    slice: str = ""
    template_id: str | None = None
    valid_from: float | None = None
    valid_until: float | None = None

    @classmethod
    def of(cls, row: RowMapping) -> GoldenItem:
        """Make an item of its row."""
        names = [name for name in cls.__slots__ if name != "id"]
        return cls(id=row["item_id"], **{name: row[name] for name in names})

    def values(self, place: int) -> dict[str, Any]:
        """Give the item by the table's columns."""
        values = msgspec.to_builtins(self)
        return {"item_id": values.pop("id"), "position": place, **values}


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """One version of an alias's golden set."""

    digest: str
    items: Sequence[GoldenItem]

    @property
    def slices(self) -> dict[str, int]:
        """How many items each slice has."""
        return dict(sorted(Counter(item.slice for item in self.items).items()))


def golden_digest(tenant: str, alias: str, items: Sequence[GoldenItem]) -> str:
    """Name a golden set by its content."""
    parts = [row_digest(*(str(value) for value in msgspec.to_builtins(i).values())) for i in items]
    return row_digest(tenant, alias, *parts)


def check_golden(items: Sequence[GoldenItem]) -> None:
    """Raise `Invalid` where an id or a question occurs twice, or there are none or too many."""
    if not items:
        raise Invalid("A golden set needs at least one item.")
    if len(items) > MAX_ITEMS:
        raise Invalid(f"A golden set has at most {MAX_ITEMS} items, not {len(items)}.")
    seen_ids: set[str] = set()
    questions: dict[tuple[str, str], str] = {}
    for item in items:
        if item.id in seen_ids:
            raise Invalid(f"The id {item.id!r} occurs twice in the golden set.", param="id")
        seen_ids.add(item.id)
        question = normal(item.instruction), normal(item.input)
        if question in questions:
            raise Invalid(
                f"The items {questions[question]!r} and {item.id!r} ask the same question.",
                param="input",
            )
        questions[question] = item.id


def is_valid(row: Mapping[str, Any] | RowMapping, now: float) -> bool:
    """Whether an item is to be used at a time."""
    begun = row["valid_from"] is None or row["valid_from"] <= now
    return begun and (row["valid_until"] is None or now < row["valid_until"])
