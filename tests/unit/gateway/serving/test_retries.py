"""Retries are a fifth of the tries, and a few in any case."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.recent import Recent
from gateway.serving.retries import FLOOR, SHARE, SPAN_S, RetryBudget


def test_a_burst_of_failures_is_tried_again() -> None:
    budget = RetryBudget()
    assert all(budget.take(0.0) for _ in range(int(FLOOR * SPAN_S)))
    assert not budget.take(0.0)
    assert (budget.made, budget.refused) == (FLOOR * SPAN_S, 1)


def test_the_budget_comes_back_with_time() -> None:
    budget = RetryBudget()
    while budget.take(0.0):
        pass
    assert not budget.take(SPAN_S / 2)
    assert budget.take(2 * SPAN_S)


def test_where_every_call_fails_a_fifth_is_tried_again() -> None:
    budget, rate, seconds = RetryBudget(), 500, 60
    for n in range(rate * seconds):
        now = n / rate
        budget.tried(now)
        if budget.take(now):
            budget.tried(now)
    share = budget.made / (rate * seconds)
    assert SHARE < share < SHARE + 2 * FLOOR / rate


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=50))
def test_recent_counts_what_is_in_the_span_and_nothing_of_two_spans_ago(
    steps: list[tuple[float, bool]],
) -> None:
    recent, now = Recent(10.0), 100.0
    times: list[tuple[float, bool]] = []
    for pause, marked in steps:
        now += pause
        recent.add(now, marked=marked)
        times.append((now, marked))
    total, marks = recent.read(now)
    last_two = [marked for at, marked in times if at > now - 20]
    assert 0 <= marks <= total <= len(last_two) + 1e-9
    assert marks <= sum(last_two) + 1e-9
    assert recent.read(now + 20) == (0, 0)


def test_a_rate_is_told_before_the_span_is_over() -> None:
    recent = Recent(10.0)
    for n in range(20):
        recent.add(5 + n / 10)
    assert 9 < recent.per_second(7.0) < 11
    assert recent.per_second(100.0) == 0
