"""Imported rows and golden items that came of an answer, which nothing but their words says.

One that asks what an answer was asked and says what that answer, or a correction of it, said, word
for word but for case and spaces, counts as made of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, select

from feedback.data.material import answer_of, question_of
from feedback.data.rows import normal, row_digest
from feedback.tables import GOLDEN_ITEMS, GOLDEN_SETS, TICKETS

Item = tuple[int, str]
"""A golden item: its set's id and its own."""


@dataclass(frozen=True, slots=True)
class Derived:
    """What could have come of answers, by its words; what was taken is not given again."""

    tickets: dict[str, list[int]]
    items: dict[str, list[Item]]

    @classmethod
    def read(cls, connection: Connection, tenant: str) -> Self:
        """Read all imported rows and golden items of a tenant."""
        tickets: dict[str, list[int]] = defaultdict(list)
        rows = select(TICKETS.c.id, TICKETS.c.alias, TICKETS.c.input, TICKETS.c.output)
        for ticket, *words in connection.execute(rows.where(TICKETS.c.tenant == tenant)):
            tickets[_words(*words)].append(ticket)
        items: dict[str, list[Item]] = defaultdict(list)
        golden = (
            select(
                GOLDEN_ITEMS.c.set_id,
                GOLDEN_ITEMS.c.item_id,
                GOLDEN_SETS.c.alias,
                GOLDEN_ITEMS.c.input,
                GOLDEN_ITEMS.c.output,
            )
            .join(GOLDEN_SETS, GOLDEN_SETS.c.id == GOLDEN_ITEMS.c.set_id)
            .where(GOLDEN_SETS.c.tenant == tenant, GOLDEN_ITEMS.c.erased_at.is_(None))
        )
        for set_id, item_id, *words in connection.execute(golden):
            items[_words(*words)].append((set_id, item_id))
        return cls(tickets, items)

    def take_tickets(self, words: Mapping[str, str]) -> dict[int, str]:
        """Give the imported rows with these words, each with the answer that the words are of."""
        return {
            ticket: response_id
            for said, response_id in words.items()
            for ticket in self.tickets.pop(said, ())
        }

    def take_items(self, words: Iterable[str]) -> list[Item]:
        """Give the golden items with these words."""
        return [item for said in words for item in self.items.pop(said, ())]


def words_of(answer: Mapping[Any, Any], corrections: Iterable[str | None]) -> list[str]:
    """Name what an answer was asked with all that was said to it; nothing where it has no text."""
    asked = question_of(answer["messages"])
    if isinstance(asked, str):
        return []
    said = {answer_of(answer["choices"]), *corrections}
    return [_words(answer["alias"], asked[1], text) for text in said if text]


def _words(alias: str, asked: str, said: str) -> str:
    return row_digest(alias, normal(asked), normal(said))
