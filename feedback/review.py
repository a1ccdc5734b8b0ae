"""The review queue: what reviewers see, claim, decide and take back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping

from feedback import review_repository as repository
from feedback.data.material import answer_of
from feedback.db import reading, server_time, writing
from feedback.errors import Conflicting, Invalid, NotKnown
from feedback.review_repository import Wanted
from feedback.types import model_of

CLAIM_S = 600.0
"""Seconds until an item that was claimed and not decided is anybody's again."""

Verdict = Literal["correct", "wrong", "unsafe", "skip"]


@dataclass(frozen=True, slots=True)
class Item:
    """A review item with its answer (None once that has been deleted) and all that was said."""

    row: RowMapping
    status: str
    answer: RowMapping | None
    feedback: Sequence[RowMapping]
    reviews: Sequence[RowMapping]

    @property
    def model(self) -> str:
        """The version that answered, by name."""
        return model_of(self.row if self.answer is None else self.answer)

    @property
    def text(self) -> str:
        """The answer under review, the first choice's."""
        return answer_of(self.answer["choices"]) if self.answer is not None else ""

    @property
    def verdict(self) -> RowMapping | None:
        """The newest verdict in force."""
        return next((one for one in reversed(self.reviews) if one["undone_at"] is None), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer says of an answer; scores lie between 0 and 1."""

    verdict: Verdict
    correction: str | None = None
    scores: Mapping[str, float] | None = None


class ReviewDesk:
    """Every operation is one transaction and blocks: use threads. Any raises `StoreAway`."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[Connection], float] = server_time
    ) -> None:
        self._engine = engine
        self._clock = clock

    def queue(
        self,
        tenant: str,
        filters: Mapping[str, str],
        *,
        aliases: Collection[str] | None = None,
        me: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> list[Item]:
        """Give items, the most pressing first; `filters` may hold alias, reason and status.

        Only those of `aliases`, where that is given. To the reviewer `me`, what they have claimed
        themselves is open.
        """
        with reading(self._engine) as connection:
            now = self._clock(connection)
            wanted = Wanted(tenant, filters, now, aliases, me)
            rows = repository.find(connection, wanted, after=after, limit=limit)
            return _items(connection, tenant, rows, now)

    def counts(
        self,
        tenant: str,
        filters: Mapping[str, str],
        *,
        aliases: Collection[str] | None = None,
        me: str | None = None,
    ) -> dict[tuple[str, str], int]:
        """Count items by (alias, reason); which ones, as `queue`."""
        with reading(self._engine) as connection:
            wanted = Wanted(tenant, filters, self._clock(connection), aliases, me)
            return repository.count(connection, wanted)

    def get(self, tenant: str, item_id: int) -> Item:
        """Give an item. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            return self._item(connection, tenant, item_id)

    def claim(self, tenant: str, item_id: int, reviewer: str) -> Item:
        """Take an item for ten minutes; again renews. Raises `NotKnown`, `Conflicting`."""
        with writing(self._engine) as connection:
            row, now = _lock(connection, tenant, item_id), self._clock(connection)
            _check_free(row, reviewer, now)
            if row["status"] == "done":
                raise Conflicting("This item is decided already; undo that first.")
            repository.change(
                connection,
                item_id,
                {"status": "claimed", "claimed_by": reviewer, "claimed_until": now + CLAIM_S},
            )
            return self._item(connection, tenant, item_id)

    def decide(self, tenant: str, item_id: int, reviewer: str, decision: Decision) -> Item:
        """Keep a verdict; the item is done then. The same decision again changes nothing.

        Raises `NotKnown`, `Conflicting` where another has it, and `Invalid` for a correction that
        cannot be one.
        """
        with writing(self._engine) as connection:
            row, now = _lock(connection, tenant, item_id), self._clock(connection)
            _check_free(row, reviewer, now)
            item = self._item(connection, tenant, item_id)
            _check_correction(decision, item)
            if row["status"] == "done":
                before = repository.newest_review(connection, item_id)
                if before is not None and _same(before, reviewer, decision):
                    return item
                raise Conflicting("This item is decided already; undo that first.")
            repository.add_review(
                connection,
                {
                    "tenant": tenant,
                    "item_id": item_id,
                    "reviewer": reviewer,
                    "verdict": decision.verdict,
                    "scores": dict(decision.scores) if decision.scores else None,
                    "correction": decision.correction,
                    "created_at": now,
                },
            )
            done = {"status": "done", "claimed_by": None, "claimed_until": None}
            repository.change(connection, item_id, done)
            return self._item(connection, tenant, item_id)

    def undo(self, tenant: str, item_id: int, reviewer: str) -> Item:
        """Take one's own verdict back; the item is open then. Raises `NotKnown`, `Conflicting`."""
        with writing(self._engine) as connection:
            row, now = _lock(connection, tenant, item_id), self._clock(connection)
            before = repository.newest_review(connection, item_id)
            if before is None:
                raise Conflicting("There is no verdict on this item to undo.")
            if before["reviewer"] != reviewer:
                raise Conflicting("Only the reviewer who decided can undo that.")
            repository.undo(connection, before["id"], now)
            # A later flag may have opened it again, and another may have it by now.
            if row["status"] == "done":
                repository.change(connection, item_id, {"status": "open"})
            return self._item(connection, tenant, item_id)

    def _item(self, connection: Connection, tenant: str, item_id: int) -> Item:
        row = repository.get(connection, tenant, item_id)
        if row is None:
            raise NotKnown(f"There is no review item {item_id}.", param="id")
        return _items(connection, tenant, [row], self._clock(connection))[0]


def _lock(connection: Connection, tenant: str, item_id: int) -> RowMapping:
    row: RowMapping | None = repository.get(connection, tenant, item_id, lock=True)
    if row is None:
        raise NotKnown(f"There is no review item {item_id}.", param="id")
    return row


def _check_free(row: RowMapping, reviewer: str, now: float) -> None:
    mine = row["claimed_by"] in (None, reviewer)
    if row["status"] == "claimed" and not mine and row["claimed_until"] > now:
        left = int(row["claimed_until"] - now) + 1
        raise Conflicting(f"{row['claimed_by']} has this item for another {left} seconds.")


def _check_correction(decision: Decision, item: Item) -> None:
    correction = decision.correction
    if correction is None:
        return
    if decision.verdict != "wrong":
        raise Invalid(
            f"A correction goes with the verdict 'wrong', not {decision.verdict!r}.",
            param="correction",
        )
    if not correction.strip():
        raise Invalid("The correction is blank: leave it out, or write one.", param="correction")
    if _plain(correction) == _plain(item.text):
        raise Invalid(
            "The correction is the same as the rejected answer: change it, or choose the verdict"
            " 'correct'.",
            param="correction",
        )


def _plain(text: str) -> str:
    # Browsers and some models write other line ends.
    return text.replace("\r\n", "\n").strip()


def _same(before: RowMapping, reviewer: str, decision: Decision) -> bool:
    return bool(
        before["reviewer"] == reviewer
        and before["verdict"] == decision.verdict
        and before["correction"] == decision.correction
        and (before["scores"] or None) == (dict(decision.scores) if decision.scores else None)
    )


def _items(
    connection: Connection, tenant: str, rows: Sequence[RowMapping], now: float
) -> list[Item]:
    ids = [row["response_id"] for row in rows]
    answers = repository.answers(connection, tenant, ids)
    feedback = repository.said(connection, tenant, ids)
    reviews = repository.reviews(connection, [row["id"] for row in rows])
    return [
        Item(
            row,
            _status(row, now),
            answers.get(row["response_id"]),
            [one for one in feedback if one["response_id"] == row["response_id"]],
            [one for one in reviews if one["item_id"] == row["id"]],
        )
        for row in rows
    ]


def _status(row: Mapping[str, Any] | RowMapping, now: float) -> str:
    over = row["status"] == "claimed" and row["claimed_until"] <= now
    return "open" if over else str(row["status"])
