"""Usage: each answer counts once, and stays counted when its capture is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, RowMapping, Table

from feedback.opening import scrubbed_captures
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore
from feedback.tables import COUNTED
from feedback.usage import Used, tokens_of, usage_of

from .conftest import NOW, a_capture, a_use

HOUR, DAY = 3600, 86_400
Captures = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def captures(scrubber: Scrubber) -> Captures:
    """Captures of 10 and 4 tokens as the shipper hands them over: `captures(1, 2, alias=...)`."""

    def make(*numbers: int, **changes: Any) -> list[dict[str, Any]]:
        values = {"usage": {"prompt_tokens": 10, "completion_tokens": 4}} | changes
        several = [a_capture(number, **values) for number in numbers]
        return asyncio.run(scrubbed_captures(scrubber, several))

    return make


def used(engine: Engine, **more: Any) -> list[Used]:
    return usage_of(engine, "default", "2027-01-01", "2027-12-31", **more)


def test_each_answer_counts_once(store: FeedbackStore, engine: Engine, captures: Captures) -> None:
    store.keep(captures(1, 2))
    store.keep(captures(2, 3, 3))
    assert used(engine) == [Used("2027-01-15", "default", "support", 2, 7, 3, 30, 12)]


def test_counts_stay_when_captures_expire(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    store.keep(captures(1))
    assert store.expire(NOW + 400 * DAY) == 1
    assert [line.requests for line in used(engine)] == [1]


def test_calls_without_an_answer_kept_count_once_too(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    store.keep(captures(1))
    assert store.count([a_use(1), a_use(2), a_use(3, alias="triage", usage={})]) == 3
    assert store.count([a_use(2), a_use(4)]) == 1
    assert used(engine) == [
        Used("2027-01-15", "default", "support", 2, 7, 4, 40, 16),
        Used("2027-01-15", "default", "triage", 2, 7, 1, 0, 0),
    ]


def test_their_ids_go_and_their_counts_stay(
    store: FeedbackStore, engine: Engine, rows: Callable[[Table], Sequence[RowMapping]]
) -> None:
    store.count([a_use(number) for number in range(3)])
    store.expire(NOW + 71 * HOUR)
    assert len(rows(COUNTED)) == 3
    assert store.expire(NOW + 73 * HOUR) == 0  # there was no capture
    assert rows(COUNTED) == []
    assert [line.requests for line in used(engine)] == [3]


def test_two_shippers_that_count_the_same_calls(store: FeedbackStore, engine: Engine) -> None:
    batches = [[a_use(number) for number in range(at, at + 20)] for at in (0, 10)]
    batches[1].reverse()
    threads = [threading.Thread(target=store.count, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.requests for line in used(engine)] == [30]


def test_lines_are_by_day_alias_version_and_key(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    """A day begins at midnight in UTC; a call that failed is a request of no tokens."""
    midnight = NOW // DAY * DAY
    store.keep(captures(1, started=midnight - 0.001))
    store.keep(captures(2, started=midnight))
    store.keep(captures(3, alias="triage", version=0))
    store.keep(captures(4, key_id=8, outcome="worker_failed", usage={}))
    assert [(line.day, line.alias, line.version, line.key_id) for line in used(engine)] == [
        ("2027-01-14", "support", 2, 7),
        ("2027-01-15", "support", 2, 7),
        ("2027-01-15", "support", 2, 8),
        ("2027-01-15", "triage", 0, 7),
    ]
    (failed,) = [line for line in used(engine) if line.key_id == 8]
    assert (failed.requests, failed.prompt_tokens, failed.completion_tokens) == (1, 0, 0)


def test_usage_of_some_days_and_aliases_of_one_tenant(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    store.keep(captures(1))
    store.keep(captures(2, tenant="other"))
    assert len(used(engine)) == 1
    assert used(engine, aliases=["triage"]) == []
    assert used(engine, aliases=[]) == []
    assert usage_of(engine, "default", "2027-01-16", "2027-12-31") == []


def test_tokens_of_several_keys_from_a_day_on(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    store.keep(captures(1, started=NOW - DAY))
    store.keep(captures(2) + captures(3, key_id=8) + captures(4, key_id=9))
    assert tokens_of(engine, [7, 8], "2027-01-15") == 28
    assert tokens_of(engine, [7, 8], "2027-01-01") == 42
    assert tokens_of(engine, [5], "2027-01-01") == 0
    assert tokens_of(engine, [], "2027-01-01") == 0


def test_two_shippers_at_once_lose_nothing(
    store: FeedbackStore, engine: Engine, captures: Captures
) -> None:
    """Both bring some records that the other brings too."""
    batches = [captures(*range(at, at + 20)) for at in (0, 10)]
    threads = [threading.Thread(target=store.keep, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.requests for line in used(engine)] == [30]
