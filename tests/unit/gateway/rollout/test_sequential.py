"""The test of one version against another: evidence, its limits, and what users do to it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rollout.sequential import FEWEST_USERS, Arm, compare, e_value

MARGIN = 0.05
users = st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=2, max_size=40)


def arm(people: int, calls: int, flags: int) -> Arm:
    return Arm.of([(calls, flags)] * people)


@given(users)
def test_users_that_are_taken_out_leave_nothing(people: list[tuple[int, float]]) -> None:
    once = Arm.of([(calls, share * calls) for calls, share in people])
    more = Arm.of([(calls, share * calls) for calls, share in people])
    more.add(7, 3)
    more.add(7, 3, -1)
    assert (more.users, more.calls) == (once.users, once.calls)
    assert more.mean == pytest.approx(once.mean)
    assert more.variance(0.01) == pytest.approx(once.variance(0.01), rel=1e-6, abs=1e-12)


def test_one_call_each_is_the_ordinary_standard_error() -> None:
    one = Arm.of([(1, 1)] * 30 + [(1, 0)] * 70)
    assert one.mean == pytest.approx(0.3)
    assert one.variance(0) == pytest.approx(0.3 * 0.7 / 99)


def test_no_user_speaks_for_all() -> None:
    """A thousand angry calls of one user weigh as some ten calls do."""
    calm = [(10, 0)] * 50
    assert Arm.of([*calm, (1000, 1000)]).mean < 0.05
    assert sum(flags for _, flags in [*calm, (1000, 1000)]) / 1500 > 0.6


def test_calls_of_users_who_are_alike_in_themselves_tell_less() -> None:
    apart = Arm.of([(1, 1)] * 100 + [(1, 0)] * 900)
    alike = Arm.of([(10, 10)] * 10 + [(10, 0)] * 90)
    assert alike.variance(0) > 5 * apart.variance(0)


def test_evidence_by_hand() -> None:
    """With no estimate the mixture only costs: twice the root of what is left of the variance."""
    assert e_value(0.0, 0.01, 0.1) == pytest.approx(math.sqrt(0.5))
    assert e_value(0.5, 0.01, 0.1) == pytest.approx(2 * math.sqrt(0.5) * math.exp(6.25), rel=1e-3)
    assert 0 <= e_value(-50.0, 0.01, 0.1) < 1e-2
    assert e_value(1e6, 1e-9, 0.1) < math.inf


@given(st.floats(-1, 1), st.floats(1e-6, 1), st.floats(0.01, 0.3))
def test_more_is_never_less_evidence(estimate: float, variance: float, scale: float) -> None:
    assert e_value(estimate + 0.1, variance, scale) >= e_value(estimate, variance, scale)


@given(st.floats(1e-6, 0.1), st.floats(0.001, 0.2))
def test_the_bounds_are_where_the_evidence_is_just_enough(variance: float, alpha: float) -> None:
    n = FEWEST_USERS
    evidence = compare(arm(n, 5, 1), arm(n, 5, 1), MARGIN, rate=True)
    low, high = evidence.bounds(alpha, MARGIN)
    assert low == pytest.approx(-high)
    assert e_value(high, evidence.variance, MARGIN) == pytest.approx(1 / alpha, rel=1e-3)


def test_it_is_silent_with_few_users() -> None:
    evidence = compare(arm(FEWEST_USERS - 1, 100, 100), arm(500, 10, 0), MARGIN, rate=True)
    assert (evidence.worse, evidence.fine) == (0, 0)
    assert evidence.bounds(0.05, MARGIN) == (-math.inf, math.inf)


def test_no_flag_at_all_is_not_proof_at_once() -> None:
    few = compare(arm(12, 1, 0), arm(12, 1, 0), MARGIN, rate=True)
    many = compare(arm(300, 1, 0), arm(300, 1, 0), MARGIN, rate=True)
    assert few.fine < 20 < many.fine


def test_looking_at_every_answer_seldom_finds_what_is_not_there() -> None:
    """Users flag alike under both versions; the evidence is looked at after each of 500 calls."""
    rng = random.Random(5)
    false = 0
    for _ in range(200):
        arms = Arm(), Arm()
        for number in range(500):
            arms[rng.random() < 0.5].add(1, rng.random() < 0.1)
            if number > 30 and compare(arms[1], arms[0], MARGIN, rate=True).worse >= 20:
                false += 1
                break
    assert false <= 200 * 0.05
