"""The store of captures and feedback: every operation is one transaction."""

from __future__ import annotations

import math
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping

from feedback import repository, usage
from feedback.db import reading, server_time, writing
from feedback.erasure import tombstones
from feedback.erasure.late import pairs_without_erased, without_erased
from feedback.errors import Conflicting, NotKnown
from feedback.sampling import Drawn, draw
from feedback.settings import FeedbackSettings
from feedback.types import Feedback, FeedbackStatus, ReviewReason, Use

CaptureValues = Mapping[str, Any]
"""A scrubbed capture by the columns of its table, less what the store decides itself."""

_HOUR, _DAY = 3600.0, 86_400.0
_PAIRS_S = 30 * _DAY
"""Seconds that pairs of a shadow are kept: longer than one takes."""
_AT_ONCE = 1000
"""Rows that one transaction deletes, so that none holds up the shippers for long."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of an answer: its capture, if it is there, and all feedback on it."""

    capture: RowMapping | None
    feedback: Sequence[RowMapping]
    erased: bool = False


class FeedbackStore:
    """Keeps captures and feedback. Blocks: use threads.

    Any operation raises `StoreAway` when the database does not answer. `chance` gives uniform
    numbers of 0..1.
    """

    def __init__(
        self,
        engine: Engine,
        settings: FeedbackSettings,
        *,
        clock: Callable[[Connection], float] = server_time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._chance = chance

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def keep(self, captures: Sequence[CaptureValues]) -> int:
        """Keep captures, each once by its id, and choose those that reviewers should see.

        Feedback that came before is linked. Those of people who were erased are only counted. Gives
        how many were new.
        """
        by_id = {str(capture["id"]): capture for capture in captures}
        with writing(self._engine) as connection:
            now = self._clock(connection)
            tombstones.share(connection)
            by_alias: dict[tuple[str, str], list[CaptureValues]] = defaultdict(list)
            for capture in without_erased(connection, by_id.values(), now):
                by_alias[(capture["tenant"], capture["alias"])].append(capture)
            new: list[dict[str, Any]] = []
            for tenant, alias in sorted(by_alias):
                new += self._keep_of(connection, tenant, alias, by_alias[(tenant, alias)], now)
            usage.count(connection, new)
            self._link(connection, now, {row["id"] for row in new})
        return len(new)

    def count(self, uses: Sequence[Use]) -> int:
        """Count calls of which no answer is kept, each once by its id; gives how many were new."""
        with writing(self._engine) as connection:
            keep_until = self._clock(connection) + self._settings.keep_hours * _HOUR
            return usage.count_uses(connection, uses, keep_until)

    def keep_pairs(self, pairs: Sequence[Mapping[str, Any]]) -> None:
        """Keep pairs of a shadow by their columns, each once by its id."""
        with writing(self._engine) as connection:
            tombstones.share(connection)
            repository.insert_pairs(connection, pairs_without_erased(connection, pairs))

    def submit(self, feedback: Feedback) -> FeedbackStatus:
        """Take feedback from a caller; gives the status to tell.

        The same id and body again is told the same. Raises `Conflicting` for another body, and
        `NotKnown` where the answer was erased.
        """
        with writing(self._engine) as connection:
            tombstones.share(connection)
            if tombstones.is_erased(connection, feedback.tenant, feedback.response_id):
                raise NotKnown("This answer was erased.", param="response_id")
            before = repository.get_feedback(connection, feedback.id)
            if before is None and (told := self._add(connection, feedback, None)) is not None:
                return told
            before = before or repository.get_feedback(connection, feedback.id)
            if before is None or before["body_sha256"] != feedback.body_sha256:
                raise Conflicting("This Idempotency-Key was used before, with another body.")
            return "linked" if before["replied"] == "linked" else "pending"

    def take(self, several: Sequence[Feedback]) -> None:
        """Take feedback that waited in an outbox, each once by its id.

        It was accepted, so it is kept even where its idempotency key was used elsewhere meanwhile,
        but for an answer that was erased.
        """
        with writing(self._engine) as connection:
            tombstones.share(connection)
            for feedback in several:
                if tombstones.is_erased(connection, feedback.tenant, feedback.response_id):
                    continue
                if self._add(connection, feedback, feedback.replied) is not None:
                    continue
                before = repository.get_feedback(connection, feedback.id)
                if before is not None and before["body_sha256"] != feedback.body_sha256:
                    self._add(connection, feedback, feedback.replied, renamed=True)

    def link(self) -> int:
        """Link feedback to captures that came in at the very same time; gives how many."""
        with reading(self._engine) as connection:
            if not repository.pending_with_capture(connection, limit=1):
                return 0
        with writing(self._engine) as connection:
            return self._link(connection, self._clock(connection))

    def look_up(self, tenant: str, response_id: str) -> Answered:
        """Give what is known of a tenant's answer."""
        with reading(self._engine) as connection:
            return Answered(
                repository.get_capture(connection, tenant, response_id),
                repository.feedback_on(connection, tenant, response_id),
                tombstones.is_erased(connection, tenant, response_id),
            )

    def expire(self, now: float | None = None) -> int:
        """Delete captures whose time is over, in small transactions; gives how many.

        The ids of calls that were counted without a capture go too, and old pairs of shadows.
        """
        gone = self._expire(repository.expire, now)
        self._expire(repository.expire_counted, now)
        self._expire(_expire_pairs, now)
        return gone

    def _expire(self, some: Callable[[Connection, float, int], int], now: float | None) -> int:
        total, gone = 0, _AT_ONCE
        while gone == _AT_ONCE:
            with writing(self._engine) as connection:
                at = self._clock(connection) if now is None else now
                gone = some(connection, at, _AT_ONCE)
            total += gone
        return total

    def _keep_of(
        self,
        connection: Connection,
        tenant: str,
        alias: str,
        captures: Sequence[CaptureValues],
        now: float,
    ) -> list[dict[str, Any]]:
        """Keep captures of one alias. The lock on its sampling makes shippers take turns."""
        state = repository.lock_sampling(connection, tenant, alias, now)
        known = repository.known_captures(connection, [capture["id"] for capture in captures])
        budget = self._settings.budget(alias)
        rows: list[dict[str, Any]] = []
        items: list[dict[str, Any]] = []
        for capture in sorted(captures, key=lambda capture: float(capture["started"])):
            if capture["id"] in known:
                continue
            drawn = None
            if _may_be_drawn(capture):
                chances = (self._chance(), self._chance())
                mean = capture["confidence_mean"]
                state, drawn = draw(state, now, capture["version_id"], mean, budget, chances)
            reasons = _reasons(capture, drawn)
            rows.append(
                {
                    **capture,
                    "reasons": reasons,
                    "inclusion_probability": drawn.audit_probability if drawn else 0.0,
                    "keep_until": self._keep_until(capture, reasons, now),
                }
            )
            if reasons:
                items.append(_item(capture, reasons, drawn, now))
        repository.insert_captures(connection, rows)
        repository.insert_items(connection, items)
        if state is not None:
            repository.save_sampling(connection, tenant, alias, state, now)
        return rows

    def _keep_until(self, capture: CaptureValues, reasons: Sequence[str], now: float) -> float:
        if reasons:
            return now + self._settings.keep_days_reviewed * _DAY
        return float(capture["started"]) + self._settings.keep_hours * _HOUR

    def _add(
        self,
        connection: Connection,
        feedback: Feedback,
        replied: FeedbackStatus | None,
        *,
        renamed: bool = False,
    ) -> FeedbackStatus | None:
        """Add feedback; gives the status that was told, or None where its id is there."""
        capture = repository.get_capture(
            connection, feedback.tenant, feedback.response_id, lock=True
        )
        status: FeedbackStatus = "pending" if capture is None else "linked"
        row = {
            "id": f"fb-{uuid.uuid4().hex}" if renamed else feedback.id,
            "tenant": feedback.tenant,
            "response_id": feedback.response_id,
            "key_id": feedback.key_id,
            "rating": feedback.rating,
            "score": feedback.score,
            "labels": list(feedback.labels),
            "comment": feedback.comment,
            "correction": feedback.correction,
            "idempotency_key": None if renamed else feedback.idempotency_key,
            "body_sha256": feedback.body_sha256,
            "status": status,
            "replied": replied or status,
            "created_at": feedback.created_at,
            "session": None if capture is None else capture["session"],
        }
        if not repository.insert_feedback(connection, row):
            return None
        if capture is not None and feedback.flags:
            self._flag(connection, capture, feedback.correction, self._clock(connection))
        return replied or status

    def _link(self, connection: Connection, now: float, ids: set[str] | None = None) -> int:
        if ids is not None and not ids:
            return 0
        pending = repository.pending_with_capture(connection, ids)
        for row in pending:
            capture = repository.get_capture(
                connection, row["tenant"], row["response_id"], lock=True
            )
            if capture is None:
                continue
            repository.set_linked(connection, row["id"], capture["session"])
            if _flags(row):
                self._flag(connection, capture, row["correction"], now)
        return len(pending)

    def _flag(
        self, connection: Connection, capture: RowMapping, correction: str | None, now: float
    ) -> None:
        """Send an answer to review because someone said so, and keep it for longer."""
        reasons = [*capture["reasons"], *({"flagged"} - set(capture["reasons"]))]
        until = max(capture["keep_until"], now + self._settings.keep_days_reviewed * _DAY)
        repository.mark_capture(connection, capture["id"], reasons, until)
        priority = 3.0 if correction is None else 4.0
        item = _new_item(capture, "flagged", priority, 1.0, now)
        repository.insert_items(connection, [item])
        repository.raise_to_flagged(connection, capture["tenant"], capture["id"], priority)


def _may_be_drawn(capture: CaptureValues) -> bool:
    return capture["outcome"] == "ok" and bool(capture["choices"]) and not _guarded(capture)


def _guarded(capture: CaptureValues) -> bool:
    return any(entry.get("action") in ("block", "flag") for entry in capture["audit"])


def _reasons(capture: CaptureValues, drawn: Drawn | None) -> list[ReviewReason]:
    """Tell why a reviewer should see an answer; the first reason is its review item's."""
    if _guarded(capture):
        return ["guarded"]
    reasons: list[ReviewReason] = []
    if drawn is not None and drawn.audit:
        reasons.append("audit")
    if drawn is not None and drawn.doubtful:
        reasons.append("doubtful")
    return reasons


def _item(
    capture: CaptureValues, reasons: Sequence[ReviewReason], drawn: Drawn | None, now: float
) -> dict[str, Any]:
    reason, priority, probability = reasons[0], 2.0, 1.0
    if reason == "audit" and drawn is not None:
        priority, probability = 0.5, drawn.audit_probability
    elif reason == "doubtful" and drawn is not None:
        # Least sure first: one minus the tokens' typical probability.
        priority = 2.0 - math.exp(min(0.0, capture["confidence_mean"]))
        probability = drawn.doubt_probability
    return _new_item(capture, reason, priority, probability, now)


def _new_item(
    capture: Mapping[str, Any] | RowMapping,
    reason: ReviewReason,
    priority: float,
    probability: float,
    now: float,
) -> dict[str, Any]:
    return {
        "tenant": capture["tenant"],
        "response_id": capture["id"],
        "alias": capture["alias"],
        "version": capture["version"],
        "reason": reason,
        "priority": priority,
        "status": "open",
        "claimed_by": None,
        "claimed_until": None,
        "created_at": now,
        "inclusion_probability": probability,
        "session": capture["session"],
        "key_id": capture["key_id"],
    }


def _flags(row: RowMapping) -> bool:
    return Feedback(
        id=row["id"],
        tenant=row["tenant"],
        response_id=row["response_id"],
        key_id=row["key_id"],
        body_sha256=row["body_sha256"],
        created_at=row["created_at"],
        rating=row["rating"],
        score=row["score"],
        correction=row["correction"],
    ).flags


def _expire_pairs(connection: Connection, now: float, limit: int) -> int:
    return repository.expire_pairs(connection, now - _PAIRS_S, limit)
