"""Circuits: who gets no calls, for how long, and that somebody always does."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.breaker import (
    FIRST_PAUSE_S,
    IN_A_ROW,
    LONGEST_PAUSE_S,
    Breakers,
    State,
    far_worse,
)

BOTH = ("a", "b")


def broken(worker: str = "a", now: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(IN_A_ROW):
        breakers.failed(worker, now)
    return breakers


def test_failures_in_a_row_open_and_an_answer_between_them_does_not() -> None:
    breakers = Breakers()
    for _ in range(5):
        for _ in range(IN_A_ROW - 1):
            breakers.failed("a", 0.0)
        breakers.answered("a", 0.0)
    assert breakers.out(BOTH, 0.0) == frozenset()
    assert broken().out(BOTH, 0.0) == {"a"}
    assert broken().states() == {"a": State.OPEN}


def test_after_the_pause_one_call_decides() -> None:
    breakers = broken()
    later = FIRST_PAUSE_S + 0.1
    assert breakers.out(BOTH, later) == frozenset()
    breakers.tried("a", later)
    assert breakers.states() == {"a": State.HALF_OPEN}
    assert breakers.out(BOTH, later) == {"a"}
    breakers.answered("a", later)
    assert breakers.states() == {"a": State.CLOSED}
    assert breakers.out(BOTH, later) == frozenset()
    assert not breakers.any_open


def test_pauses_double_up_to_the_longest() -> None:
    breakers, now, pauses = broken(), 0.0, []
    for _ in range(9):
        pause = next(p for p in (1, 2, 4, 8, 16, 32, 60) if not breakers.out(BOTH, now + p))
        assert breakers.out(BOTH, now + pause - 0.01) == {"a"}
        pauses.append(pause)
        now += pause
        breakers.tried("a", now)
        breakers.failed("a", now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_worker_that_fails_again_soon_pauses_longer_and_later_not() -> None:
    for wait, pause in ((1.0, 2 * FIRST_PAUSE_S), (LONGEST_PAUSE_S + 1, FIRST_PAUSE_S)):
        breakers = broken()
        breakers.tried("a", 1.0)
        breakers.answered("a", 1.0)
        for _ in range(IN_A_ROW):
            breakers.failed("a", 1.0 + wait)
        assert breakers.out(BOTH, 1.0 + wait + pause - 0.01) == {"a"}
        assert breakers.out(BOTH, 1.0 + wait + pause) == frozenset()


def test_calls_that_failed_beside_the_ones_that_opened_it_change_nothing() -> None:
    breakers = broken()
    for _ in range(20):
        breakers.failed("a", 0.5)
    assert breakers.out(BOTH, FIRST_PAUSE_S) == frozenset()


def test_a_tried_call_without_an_end_does_not_block_for_good() -> None:
    breakers = broken()
    breakers.tried("a", 1.0)
    assert breakers.out(BOTH, 1.5) == {"a"}
    assert breakers.out(BOTH, 1.0 + FIRST_PAUSE_S) == frozenset()


def test_another_boot_begins_with_a_clean_sheet() -> None:
    breakers = Breakers()
    breakers.booted("a", "1")
    for _ in range(IN_A_ROW):
        breakers.failed("a", 0.0)
    breakers.booted("a", "1")
    assert breakers.out(BOTH, 0.0) == {"a"}
    breakers.booted("a", "2")
    assert breakers.out(BOTH, 0.0) == frozenset()
    assert breakers.states() == {}


def test_the_last_way_out_stays_open() -> None:
    breakers = broken("a", 0.0)
    for _ in range(IN_A_ROW):
        breakers.failed("b", 0.5)
    assert breakers.out(BOTH, 0.6) == {"b"}
    assert breakers.out(("b",), 0.6) == frozenset()


def test_after_an_outage_of_all_no_worker_has_to_bear_the_calls_of_all() -> None:
    breakers, names = Breakers(), [f"w{n}" for n in range(8)]
    answered: Counter[str] = Counter()
    for tick in range(2400):  # twenty calls a second
        now = tick / 20
        out = breakers.out(names, now)
        worker = [name for name in names if name not in out][tick % (len(names) - len(out))]
        breakers.tried(worker, now)
        if 10 < now < 100:
            breakers.failed(worker, now)
        else:
            breakers.answered(worker, now)
            answered[worker] += now > 102
    assert len(answered) == len(names)
    assert max(answered.values()) < 2 * answered.total() / len(names)


def test_one_that_fails_alone_is_left_out_for_its_whole_pause() -> None:
    breakers = Breakers()
    breakers.answered("b", 0.0)
    for _ in range(IN_A_ROW):
        breakers.failed("a", 0.0)
    breakers.tried("a", FIRST_PAUSE_S)
    breakers.failed("a", FIRST_PAUSE_S)
    breakers.answered("b", FIRST_PAUSE_S)
    assert breakers.out(BOTH, 2.9 * FIRST_PAUSE_S) == {"a"}


def flaky(rates: dict[str, int]) -> Breakers:
    """Workers that fail so many of ten calls each, but never so often in a row."""
    breakers = Breakers()
    for n in range(200):
        for worker, tenths in rates.items():
            if (n * 7 + 3) % 10 < tenths and n % 3:
                breakers.failed(worker, n / 1000)
            else:
                breakers.answered(worker, n / 1000)
    return breakers


def test_an_outlier_is_left_out() -> None:
    assert flaky({"a": 5, "b": 0, "c": 0}).out("abc", 0.2) == {"a"}


def test_where_all_fail_alike_nobody_is_an_outlier() -> None:
    assert flaky({"a": 5, "b": 5, "c": 5}).out("abc", 0.2) == frozenset()


def test_at_most_half_are_left_out_as_outliers() -> None:
    breakers = flaky({"a": 6, "b": 6, "c": 0, "d": 0, "e": 0, "f": 0})
    assert breakers.out("abcdef", 0.2) == {"a", "b"}
    assert len(breakers.out("abc", 0.2)) == 1
    assert breakers.out("ab", 0.2) != {"a", "b"}
    assert breakers.out("a", 0.2) == frozenset()


def test_few_calls_are_not_compared() -> None:
    assert not far_worse(10, 19, 0, 1000)
    assert not far_worse(10, 1000, 0, 19)
    assert far_worse(10, 20, 0, 1000)
    assert not far_worse(30, 300, 3, 300)  # nine points: not so bad


events = st.lists(
    st.tuples(
        st.sampled_from(["failed", "answered", "tried", "boot"]),
        st.sampled_from("abcd"),
        st.floats(0, 5),
    ),
    max_size=60,
)


@given(events, st.sets(st.sampled_from("abcd"), min_size=1))
def test_somebody_is_always_left(happened: list[tuple[str, str, float]], able: set[str]) -> None:
    breakers, now = Breakers(), 0.0
    for boots, (kind, worker, pause) in enumerate(happened):
        now += pause
        match kind:
            case "boot":
                breakers.booted(worker, str(boots))
            case "failed":
                breakers.failed(worker, now)
            case "answered":
                breakers.answered(worker, now)
            case _:
                breakers.tried(worker, now)
        out = breakers.out(able, now)
        assert out < able
        assert breakers.any_open == any(s is not State.CLOSED for s in breakers.states().values())
        assert all(breakers.states()[name] is not State.CLOSED for name in out)
    assert breakers.out(able, now + 2 * LONGEST_PAUSE_S) == frozenset()


def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        breakers = broken()
        breakers.failed("a", 0.1)
        breakers.out(BOTH, 0.1)
        breakers.tried("a", 1.5)
        breakers.tried("a", 1.6)
        breakers.answered("a", 1.7)
        breakers.answered("a", 1.8)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "worker a gets no calls for 1 s",
        "worker a gets one call to see whether it answers",
        "worker a answers again and gets calls",
    ]


def test_workers_that_left_are_forgotten() -> None:
    breakers = broken()
    breakers.keep(["b"])
    assert breakers.states() == {}
    assert not breakers.any_open
