"""The report on confidence: labels, the audit, and the use of the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from feedback.confidence import Trust, trust_of
from feedback.opening import scrubbed_captures
from feedback.review import Decision, ReviewDesk, Verdict
from feedback.scrub import Scrubber
from feedback.settings import FeedbackSettings
from feedback.store import FeedbackStore

from .conftest import Clock, a_capture, some_feedback

SETTINGS = FeedbackSettings(review_budget=20)


@pytest.fixture
def report(engine: Engine, clock: Clock) -> Callable[[], Trust]:
    return lambda: trust_of(engine, SETTINGS, "default", "support", clock=clock)


@pytest.fixture
def judged(
    engine: Engine, clock: Clock, make_store: Callable[..., FeedbackStore], scrubber: Scrubber
) -> ReviewDesk:
    """Eight answers: 1 to 3 audited, 4 doubtful, the rest unseen, until 5 was flagged."""
    chances = iter([0.0, 1.0] * 3 + [1.0, 0.0] + [1.0, 1.0] * 4)
    store = make_store(chance=lambda: next(chances), review_budget=20)
    answers = [a_capture(number, started=clock.now + number) for number in range(1, 9)]
    store.keep(asyncio.run(scrubbed_captures(scrubber, answers)))
    store.submit(some_feedback(5))
    desk = ReviewDesk(engine, clock=clock)
    verdicts: dict[int, Verdict] = {1: "correct", 2: "wrong", 3: "skip", 4: "unsafe", 5: "wrong"}
    for item in desk.queue("default", {}):
        verdict = verdicts[int(item.row["response_id"][-1])]
        desk.decide("default", item.row["id"], "ann", Decision(verdict))
    return desk


def test_labels_and_their_reasons(judged: ReviewDesk, report: Callable[[], Trust]) -> None:
    told = report()
    assert told.labels == {"audit": 2, "doubtful": 1, "flagged": 1}
    assert (told.wrong, told.fit.method, told.fit.brier) == (3, "mean", None)
    # The surest one alone is right, by the mean as by the minimum.
    assert told.fit.auroc == told.auroc_minimum == 1.0
    assert told.fit.risk_coverage[0] == (0.1, 0.0)


def test_what_the_audit_says_of_errors_that_nobody_noticed(
    judged: ReviewDesk, report: Callable[[], Trust]
) -> None:
    missed = report().missed
    assert missed is not None
    assert missed.items == 2
    assert missed.low < missed.value < missed.high
    assert missed.value == pytest.approx(0.5, abs=0.1)


def test_the_use_of_the_budget(
    judged: ReviewDesk, report: Callable[[], Trust], clock: Clock
) -> None:
    use = report().use
    assert (use.budget, use.seen, use.doubtful, use.audited) == (20, 8, 1, 3)
    assert use.threshold is not None
    assert -0.09 < use.threshold < 0
    clock.now += 3 * 86_400
    later = report().use
    assert (later.seen, later.doubtful, later.audited) == (0, 0, 0)


def test_of_an_alias_that_nobody_called(report: Callable[[], Trust]) -> None:
    told = report()
    assert (told.labels, told.missed, told.use.threshold) == ({}, None, None)
