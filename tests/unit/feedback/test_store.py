"""The store: each record once, flags and doubts go to review, old answers go."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, RowMapping, Table, update

from feedback import repository
from feedback.db import writing
from feedback.errors import Conflicting
from feedback.opening import scrubbed_captures
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS, SAMPLING

from .conftest import NOW, Clock, a_capture, some_feedback

Rows = Callable[[Table], Sequence[RowMapping]]
DAY = 86_400.0


@pytest.fixture
def capture_rows(scrubber: Scrubber) -> Callable[..., list[dict[str, Any]]]:
    """Captures as the shipper hands them over: `capture_rows(1, 2, outcome=...)`."""

    def make(*numbers: int, **changes: Any) -> list[dict[str, Any]]:
        several = [a_capture(number, **changes) for number in numbers]
        return asyncio.run(scrubbed_captures(scrubber, several))

    return make


def test_a_capture_is_kept_once(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    assert store.keep(capture_rows(1, 2)) == 2
    assert store.keep(capture_rows(2, 3, 3)) == 1
    kept = rows(CAPTURES)
    assert sorted(row["id"][-1] for row in kept) == ["1", "2", "3"]
    first = min(kept, key=lambda row: row["id"])
    assert first["confidence_mean"] == -0.01
    assert first["confidence_min"] == -0.02
    assert first["keep_until"] == NOW + 72 * 3600
    assert first["reasons"] == []
    assert first["scrubber"] == "2; emails 1"
    assert not rows(REVIEW_ITEMS)


def test_a_flag_after_its_answer(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store.keep(capture_rows(1))
    assert store.submit(some_feedback()) == "linked"
    (item,) = rows(REVIEW_ITEMS)
    assert (item["reason"], item["status"], item["version"]) == ("flagged", "open", 2)
    (capture,) = rows(CAPTURES)
    assert capture["reasons"] == ["flagged"]
    assert capture["keep_until"] == NOW + 365 * DAY


def test_a_flag_before_its_answer(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    assert store.submit(some_feedback(correction="better")) == "pending"
    assert not rows(REVIEW_ITEMS)
    store.keep(capture_rows(1))
    (said,) = rows(FEEDBACK)
    assert (said["status"], said["replied"]) == ("linked", "pending")
    (item,) = rows(REVIEW_ITEMS)
    assert (item["reason"], item["priority"]) == ("flagged", 4.0)
    assert store.link() == 0


def test_approval_is_no_flag(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store.keep(capture_rows(1))
    store.submit(some_feedback(rating="up", comment="good"))
    store.submit(some_feedback(number=2, rating=None, score=0.9))
    assert not rows(REVIEW_ITEMS)
    store.submit(some_feedback(number=3, rating=None, score=0.1))
    assert len(rows(REVIEW_ITEMS)) == 1


def test_the_same_call_is_told_the_same(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    said = some_feedback(idempotency_key="k")
    assert store.submit(said) == "pending"
    store.keep(capture_rows(1))
    assert store.submit(said) == "pending"
    with pytest.raises(Conflicting):
        store.submit(some_feedback(idempotency_key="k", body_sha256="other"))
    assert len(rows(FEEDBACK)) == 1


def test_what_was_accepted_is_never_dropped(store: FeedbackStore, rows: Rows) -> None:
    said = some_feedback(idempotency_key="k")
    store.take([said])
    store.take([said, said])
    assert len(rows(FEEDBACK)) == 1
    store.take([some_feedback(idempotency_key="k", body_sha256="other", comment="second")])
    first, second = sorted(rows(FEEDBACK), key=lambda row: row["id"] != "fb-1")
    assert second["comment"] == "second"
    assert (first["idempotency_key"], second["idempotency_key"]) == ("k", None)


def test_another_tenants_answer_is_not_touched(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store.keep(capture_rows(1))
    assert store.submit(some_feedback(tenant="other")) == "pending"
    assert not rows(REVIEW_ITEMS)
    assert store.look_up("other", a_capture(1).id).capture is None
    known = store.look_up("default", a_capture(1).id)
    assert known.capture is not None
    assert not known.feedback


def test_doubtful_and_audited_answers_go_to_review(
    make_store: Callable[..., FeedbackStore], rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store = make_store(chance=lambda: 0.0, review_budget=4)
    store.keep(capture_rows(1))
    (item,) = rows(REVIEW_ITEMS)
    assert item["reason"] == "audit"
    (capture,) = rows(CAPTURES)
    assert capture["reasons"] == ["audit", "doubtful"]
    assert capture["keep_until"] > NOW + 300 * DAY
    assert 0 < item["inclusion_probability"] == capture["inclusion_probability"] < 1
    store.keep(capture_rows(*range(2, 40)))
    assert len(rows(REVIEW_ITEMS)) <= 4
    (state,) = rows(SAMPLING)
    ((_, scores),) = state["state"]["windows"]
    assert len(scores) == 39


def test_the_budget_is_the_aliases(
    make_store: Callable[..., FeedbackStore], rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store = make_store(chance=lambda: 0.0, review_budgets={"support": 0})
    store.keep(capture_rows(*range(1, 20)))
    assert not rows(REVIEW_ITEMS)
    store.keep(capture_rows(21, alias="triage"))
    assert [item["alias"] for item in rows(REVIEW_ITEMS)] == ["triage"]


def test_guarded_answers_go_to_review(
    store: FeedbackStore, rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    store.keep(capture_rows(1, audit=[{"action": "block", "guard": "toxicity"}]))
    store.keep(capture_rows(2, audit=[{"action": "redact", "guard": "personal_data"}]))
    store.keep(capture_rows(3, outcome="worker_failed", choices=[]))
    (item,) = rows(REVIEW_ITEMS)
    assert item["reason"] == "guarded"
    assert item["response_id"].endswith("1")


def test_a_flag_takes_over_an_item(
    make_store: Callable[..., FeedbackStore],
    rows: Rows,
    engine: Engine,
    capture_rows: Callable[..., Any],
) -> None:
    store = make_store(chance=lambda: 0.0)
    store.keep(capture_rows(1))
    with writing(engine) as connection:
        connection.execute(update(REVIEW_ITEMS).values(status="done", claimed_by="r"))
    store.submit(some_feedback())
    (item,) = rows(REVIEW_ITEMS)
    assert (item["reason"], item["status"], item["claimed_by"]) == ("flagged", "open", None)
    with writing(engine) as connection:
        connection.execute(update(REVIEW_ITEMS).values(status="done"))
    store.submit(some_feedback(number=2))
    assert rows(REVIEW_ITEMS)[0]["status"] == "done"


def test_old_answers_go_unless_they_wait_for_review(
    store: FeedbackStore,
    rows: Rows,
    clock: Clock,
    engine: Engine,
    capture_rows: Callable[..., Any],
) -> None:
    store.keep(capture_rows(1, 2, 3))
    store.submit(some_feedback(1))
    assert store.expire() == 0
    clock.now = NOW + 73 * 3600
    assert store.expire() == 2
    assert [row["id"][-1] for row in rows(CAPTURES)] == ["1"]
    clock.now = NOW + 366 * DAY
    assert store.expire() == 0
    with writing(engine) as connection:
        connection.execute(update(REVIEW_ITEMS).values(status="done"))
        assert repository.expire(connection, clock.now) == 1


def test_many_at_once(
    make_store: Callable[..., FeedbackStore], rows: Rows, capture_rows: Callable[..., Any]
) -> None:
    """Several gateways ship, and flags come, at the very same time."""
    store = make_store(chance=lambda: 0.5, review_budget=1000)
    batches = [capture_rows(*range(start, start + 20)) for start in (1, 11, 21, 31)]
    flags = [some_feedback(response, response) for response in range(1, 51)]
    work = [lambda batch=batch: store.keep(batch) for batch in batches]
    work += [lambda flag=flag: store.submit(flag) for flag in flags]
    errors: list[BaseException] = []

    def do(piece: Callable[[], object]) -> None:
        try:
            piece()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=(piece,)) for piece in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    store.link()
    assert len(rows(CAPTURES)) == 50
    assert {row["status"] for row in rows(FEEDBACK)} == {"linked"}
    assert sum(item["reason"] == "flagged" for item in rows(REVIEW_ITEMS)) == 50
