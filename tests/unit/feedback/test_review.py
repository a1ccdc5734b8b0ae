"""The review queue: claims, verdicts, corrections, undo."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, update

from feedback.db import writing
from feedback.errors import Conflicting, Invalid, NotKnown
from feedback.opening import scrubbed_captures
from feedback.review import CLAIM_S, Decision, ReviewDesk
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore
from feedback.tables import REVIEW_ITEMS
from feedback.types import CapturedChoice

from .conftest import Clock, a_capture, some_feedback

T = "default"


@pytest.fixture
def desk(engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber) -> ReviewDesk:
    """A desk with three flagged answers; the second one came with a correction."""
    captures = asyncio.run(scrubbed_captures(scrubber, [a_capture(n) for n in (1, 2, 3)]))
    store.keep(captures)
    for number in (1, 2, 3):
        correction = "It costs 9 euros." if number == 2 else None
        store.submit(some_feedback(number, number, correction=correction))
    return ReviewDesk(engine, clock=clock)


def first(desk: ReviewDesk) -> int:
    return int(desk.queue(T, {"status": "open"})[0].row["id"])


def test_the_queue_begins_with_what_users_corrected(desk: ReviewDesk) -> None:
    items = desk.queue(T, {"status": "open"})
    assert [item.row["response_id"][-1] for item in items] == ["2", "1", "3"]
    assert items[0].feedback[0]["correction"] == "It costs 9 euros."
    assert items[0].text.startswith("Write to ")
    page = desk.queue(T, {"status": "open"}, after=items[0].row["id"], limit=1)
    assert [item.row["id"] for item in page] == [items[1].row["id"]]
    assert desk.counts(T, {"status": "open"}) == {("support", "flagged"): 3}
    assert desk.queue("another", {}) == []
    assert desk.queue(T, {"reason": "audit"}) == []


def test_of_reviewers_that_claim_at_once_one_wins(desk: ReviewDesk) -> None:
    item = first(desk)

    def claim(number: int) -> bool:
        try:
            desk.claim(T, item, f"reviewer-{number}")
        except Conflicting:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


def test_a_claim_runs_out(desk: ReviewDesk, clock: Clock) -> None:
    item = first(desk)
    assert desk.claim(T, item, "ann").status == "claimed"
    with pytest.raises(Conflicting, match="ann has this item for another"):
        desk.claim(T, item, "ben")
    with pytest.raises(Conflicting, match="ann has this item"):
        desk.decide(T, item, "ben", Decision("correct"))
    assert first(desk) != item
    clock.now += CLAIM_S + 1
    assert first(desk) == item
    assert desk.claim(T, item, "ben").row["claimed_by"] == "ben"


def test_a_verdict_ends_an_item_and_can_be_taken_back(desk: ReviewDesk) -> None:
    item = first(desk)
    scores = {"correctness": 0.0}
    done = desk.decide(T, item, "ann", Decision("wrong", "It costs 12 euros.", scores))
    assert done.status == "done"
    assert (done.reviews[0]["correction"], done.reviews[0]["scores"]) == (
        "It costs 12 euros.",
        scores,
    )
    assert desk.decide(T, item, "ann", Decision("wrong", "It costs 12 euros.", scores)) is not None
    with pytest.raises(Conflicting, match="decided already"):
        desk.decide(T, item, "ann", Decision("correct"))
    with pytest.raises(Conflicting, match="Only the reviewer who decided"):
        desk.undo(T, item, "ben")
    undone = desk.undo(T, item, "ann")
    assert undone.status == "open"
    assert undone.reviews[0]["undone_at"] is not None
    with pytest.raises(Conflicting, match="no verdict"):
        desk.undo(T, item, "ann")
    assert desk.decide(T, item, "ben", Decision("unsafe")).status == "done"


@pytest.mark.parametrize(
    ("verdict", "correction", "message"),
    [
        ("wrong", "  ", "is blank"),
        ("correct", "Something else", "goes with the verdict 'wrong'"),
        ("wrong", None, None),
    ],
)
def test_corrections_are_checked(
    desk: ReviewDesk, verdict: str, correction: str | None, message: str | None
) -> None:
    decision = Decision(verdict, correction)  # type: ignore[arg-type]
    if message is None:
        assert desk.decide(T, first(desk), "ann", decision).status == "done"
        return
    with pytest.raises(Invalid, match=message) as refused:
        desk.decide(T, first(desk), "ann", decision)
    assert refused.value.param == "correction"


def test_a_correction_that_changes_nothing_is_refused(desk: ReviewDesk) -> None:
    item = desk.queue(T, {"status": "open"})[0]
    with pytest.raises(Invalid, match="same as the rejected answer"):
        desk.decide(T, item.row["id"], "ann", Decision("wrong", f" {item.text}\n"))
    assert desk.get(T, item.row["id"]).status == "open"


def test_other_tenants_items_are_not_there(desk: ReviewDesk) -> None:
    for act in (desk.get, lambda t, i: desk.claim(t, i, "x"), lambda t, i: desk.undo(t, i, "x")):
        with pytest.raises(NotKnown):
            act("another", first(desk))


def test_a_reviewer_sees_their_own_claims_and_their_own_aliases(desk: ReviewDesk) -> None:
    item = first(desk)
    desk.claim(T, item, "ann")
    assert first(desk) != item
    opened = {"status": "open"}
    assert desk.queue(T, opened, me="ann")[0].row["id"] == item
    assert desk.counts(T, opened, me="ann") == {("support", "flagged"): 3}
    assert desk.counts(T, opened, me="ben") == {("support", "flagged"): 2}
    assert len(desk.queue(T, {}, aliases={"support", "triage"})) == 3
    assert desk.queue(T, {}, aliases={"triage"}) == []
    assert desk.counts(T, {}, aliases=set()) == {}


def test_line_ends_alone_are_no_correction(
    desk: ReviewDesk, store: FeedbackStore, scrubber: Scrubber
) -> None:
    lines = CapturedChoice(index=0, content="One\r\ntwo", finish_reason="stop")
    store.keep(asyncio.run(scrubbed_captures(scrubber, [a_capture(4, choices=[lines])])))
    store.submit(some_feedback(4, 4))
    item = desk.queue(T, {})[-1]
    assert item.text == "One\r\ntwo"
    with pytest.raises(Invalid, match="same as the rejected answer"):
        desk.decide(T, item.row["id"], "ann", Decision("wrong", "One\ntwo"))


def test_an_item_that_was_flagged_again_keeps_its_claim_when_the_old_verdict_goes(
    desk: ReviewDesk, engine: Engine
) -> None:
    item = first(desk)
    desk.decide(T, item, "ann", Decision("correct"))
    with writing(engine) as connection:  # as a later flag does to what was doubtful before
        connection.execute(
            update(REVIEW_ITEMS).where(REVIEW_ITEMS.c.id == item).values(status="open")
        )
    desk.claim(T, item, "ben")
    left = desk.undo(T, item, "ann")
    assert (left.status, left.row["claimed_by"], left.verdict) == ("claimed", "ben", None)
    done = desk.decide(T, item, "ben", Decision("skip"))
    assert done.verdict is not None
    assert done.verdict["reviewer"] == "ben"
