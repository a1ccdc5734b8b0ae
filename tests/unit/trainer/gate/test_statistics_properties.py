from __future__ import annotations

import math
import random
from fractions import Fraction
from functools import cache
from statistics import NormalDist

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.gate.statistics import (
    Interval,
    bootstrap_interval,
    detectable,
    holm,
    mcnemar,
    paired_interval,
    score_interval,
)

COUNTS = st.integers(0, 60)
DRAWN = {"level": 0.95, "resamples": 1_000, "seed": 7}


# --- McNemar ---------------------------------------------------------------------------------


def _mcnemar_by_fractions(gains: int, losses: int) -> Fraction:
    pairs = gains + losses
    tail = sum(math.comb(pairs, i) for i in range(min(gains, losses) + 1))
    return min(Fraction(1), Fraction(2 * tail, 2**pairs))


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_exact_symmetric_and_a_probability(gains: int, losses: int) -> None:
    p = mcnemar(gains, losses)

    assert 0 < p <= 1
    assert p == mcnemar(losses, gains)
    assert p == pytest.approx(float(_mcnemar_by_fractions(gains, losses)), rel=1e-10)


@pytest.mark.parametrize(
    ("gains", "losses", "p"),
    [
        (0, 0, 1),
        (5, 5, 1),
        (6, 5, 1),
        (6, 0, 0.03125),
        (5, 0, 0.0625),
        (1, 7, 0.0703125),  # Bentur et al. 2009, in Fagerland, Lydersen and Laake 2013
        (150, 86, 3.7e-5),  # Agresti's approval ratings: 3.5e-5 by the square of chi
    ],
)
def test_mcnemar_in_textbooks(gains: int, losses: int, p: float) -> None:
    assert mcnemar(gains, losses) == pytest.approx(p, rel=0.02)


def test_mcnemar_on_large_counts() -> None:
    gains, losses = 50_600, 50_000
    normal = 2 * NormalDist().cdf(-(gains - losses - 1) / math.sqrt(gains + losses))

    assert mcnemar(gains, losses) == pytest.approx(normal, rel=1e-3)
    assert 0 < mcnemar(0, 100_000) < 1e-300


# --- Holm ------------------------------------------------------------------------------------


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1, 1]


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=8), st.randoms())
def test_holm_keeps_the_order_and_lies_between_nothing_and_bonferroni(
    ps: list[float], chance: random.Random
) -> None:
    adjusted = holm(ps)

    assert all(p <= a <= min(1, p * len(ps)) for p, a in zip(ps, adjusted, strict=True))
    ranked = sorted(zip(ps, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(adjusted)
    shuffled = list(enumerate(ps))
    chance.shuffle(shuffled)
    again = holm([p for _, p in shuffled])
    assert [adjusted[place] for place, _ in shuffled] == again


# --- Tango -----------------------------------------------------------------------------------


def test_the_score_interval_in_a_textbook() -> None:
    # Fagerland, Lydersen and Laake 2014: 1 and 7 discordant pairs of 21.
    found = score_interval(1, 7, 21)

    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_score_interval_of_a_large_table_is_the_usual_one() -> None:
    # Agresti, Categorical Data Analysis: approval ratings, 0.04 with 0.021 to 0.059.
    found = score_interval(150, 86, 1600)

    assert (found.low, found.high) == pytest.approx((0.021, 0.059), abs=5e-4)


@pytest.mark.parametrize("n", [1, 10, 60, 1000])
def test_no_difference_seen_is_not_no_difference(n: int) -> None:
    found, z = score_interval(0, 0, n), NormalDist().inv_cdf(0.975)

    assert found.high == pytest.approx(z**2 / (n + z**2))
    assert found.low == pytest.approx(-found.high)


def _score_by_search(gains: int, losses: int, n: int, at: float) -> float:
    """The same statistic, its most likely share of losses found by search and not by formula."""

    def likelihood(q: float) -> float:
        shares = (q + at, q, 1 - 2 * q - at)
        counts = (gains, losses, n - gains - losses)
        return sum(
            count * math.log(max(share, 1e-300))
            for count, share in zip(counts, shares, strict=True)
            if count
        )

    low, high = max(0.0, -at), (1 - at) / 2
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if likelihood(left) < likelihood(right) else (low, right)
    q = (low + high) / 2
    return (gains - losses - n * at) / math.sqrt(n * (2 * q + at - at * at))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 30))
def test_the_score_test_just_rejects_the_bounds(gains: int, losses: int, rest: int) -> None:
    n, z = gains + losses + rest, NormalDist().inv_cdf(0.975)

    found = score_interval(gains, losses, n)

    assert _score_by_search(gains, losses, n, found.low) == pytest.approx(z, rel=1e-4)
    assert _score_by_search(gains, losses, n, found.high) == pytest.approx(-z, rel=1e-4)


@given(COUNTS, COUNTS, COUNTS)
def test_the_score_interval_is_antisymmetric_and_holds_the_estimate(
    gains: int, losses: int, rest: int
) -> None:
    n = gains + losses + rest
    assume(n)

    found, other = score_interval(gains, losses, n), score_interval(losses, gains, n)

    assert -1 <= found.low <= (gains - losses) / n <= found.high <= 1
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    narrower = score_interval(gains, losses, n, 0.8)
    assert found.low <= narrower.low <= narrower.high <= found.high


def test_a_better_answer_never_lowers_a_bound() -> None:
    n = 40
    for gains in range(n):
        for losses in range(n - gains):
            here = score_interval(gains, losses, n)
            steps = [score_interval(gains + 1, losses, n)]
            if losses:
                steps.append(score_interval(gains, losses - 1, n))
            assert all(s.low >= here.low - 1e-12 for s in steps), (gains, losses)
            assert all(s.high >= here.high - 1e-12 for s in steps), (gains, losses)


@pytest.mark.parametrize(
    ("n", "up", "down"), [(30, 0.1, 0.1), (60, 0.02, 0.02), (60, 0.15, 0.05), (100, 0.01, 0.0)]
)
def test_the_score_interval_covers_as_often_as_it_says(n: int, up: float, down: float) -> None:
    covered = 0.0
    for gains in range(n + 1):
        for losses in range(n - gains + 1):
            share = _trinomial(n, gains, losses, up, down)
            if share > 1e-9:
                found = score_interval(gains, losses, n)
                covered += share * (found.low <= up - down <= found.high)

    assert covered > 0.93


def _trinomial(n: int, gains: int, losses: int, up: float, down: float) -> float:
    rest = n - gains - losses
    ways = math.comb(n, gains) * math.comb(n - gains, losses)
    return float(ways * up**gains * down**losses * (1 - up - down) ** rest)


# --- bootstrap -------------------------------------------------------------------------------

DIFFERENCES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40)


@given(DIFFERENCES, st.randoms())
@settings(max_examples=50)
def test_an_interval_holds_the_mean_whatever_the_order(
    values: list[float], chance: random.Random
) -> None:
    shuffled = values.copy()
    chance.shuffle(shuffled)
    for interval in (bootstrap_interval, paired_interval):
        found = interval(values, **DRAWN)  # type: ignore[operator]
        assert found.low <= math.fsum(values) / len(values) <= found.high
        assert interval(shuffled, **DRAWN) == found  # type: ignore[operator]


@given(DIFFERENCES)
@settings(max_examples=50)
def test_exchanging_the_versions_mirrors_the_interval(values: list[float]) -> None:
    found = paired_interval(values, **DRAWN)
    other = paired_interval([-value for value in values], **DRAWN)

    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-9)


@given(DIFFERENCES, st.data())
@settings(max_examples=50)
def test_a_larger_difference_never_lowers_the_bootstrap(
    values: list[float], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    raised = values.copy()
    raised[place] = data.draw(st.floats(values[place], 1))

    before, after = bootstrap_interval(values, **DRAWN), bootstrap_interval(raised, **DRAWN)

    assert after.low >= before.low - 1e-12
    assert after.high >= before.high - 1e-12


def test_no_interval_is_a_point() -> None:
    equal = paired_interval([0.0] * 60, **DRAWN)
    few = paired_interval([0.3] * 3 + [0.0] * 57, **DRAWN)

    assert (equal.low, equal.high) == pytest.approx((-0.0602, 0.0602), abs=1e-3)
    assert few.low < -0.05
    assert few.high > 0.1


def test_many_partial_differences_are_the_bootstraps() -> None:
    values = [0.25, -0.25, 0.5, 0.1] * 50

    assert paired_interval(values, **DRAWN) == bootstrap_interval(values, **DRAWN)
    mean, deviation = 0.15, 0.2761  # by hand
    wald = 1.96 * deviation / math.sqrt(200)
    found = paired_interval(values, level=0.95, resamples=10_000, seed=1)
    assert (found.low, found.high) == pytest.approx((mean - wald, mean + wald), abs=0.003)


def test_the_gates_interval_covers_in_simulation() -> None:
    @cache
    def interval(gains: int, losses: int) -> Interval:
        values = [1.0] * gains + [-1.0] * losses + [0.0] * (100 - gains - losses)
        return paired_interval(values, **DRAWN)

    chance, hits, runs = random.Random(5), 0, 4_000
    for _ in range(runs):
        drawn = [chance.random() for _ in range(100)]
        found = interval(sum(d < 0.08 for d in drawn), sum(0.08 <= d < 0.12 for d in drawn))
        hits += found.low <= 0.04 <= found.high

    assert 0.94 < hits / runs < 0.985


# --- power -----------------------------------------------------------------------------------


def test_detectable_effects_by_connors_formula() -> None:
    assert detectable(20, 200, alpha=0.05) == pytest.approx(0.062, abs=0.001)
    assert detectable(50, 500, alpha=0.05) == pytest.approx(0.0395, abs=0.001)


@pytest.mark.parametrize(("discordant", "n"), [(20, 200), (40, 200), (50, 500), (30, 60)])
def test_connors_equation_holds_at_its_solution(discordant: int, n: int) -> None:
    found = detectable(discordant, n, alpha=0.05)
    share, z_a, z_b = discordant / n, NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)

    assert found is not None
    needed = ((z_a * share**0.5 + z_b * (share - found**2) ** 0.5) / found) ** 2
    assert needed == pytest.approx(n)


@pytest.mark.parametrize(("discordant", "n"), [(0, 60), (0, 200), (20, 200), (80, 400)])
def test_what_is_detectable_is_detected_about_four_times_in_five(discordant: int, n: int) -> None:
    effect = detectable(discordant, n, alpha=0.05)
    assert effect is not None
    share = max(discordant / n, effect)
    up, down = (share + effect) / 2, (share - effect) / 2
    chance, seen, runs = random.Random(3), 0, 1_500
    for _ in range(runs):
        gains = losses = 0
        for _ in range(n):
            drawn = chance.random()
            gains += drawn < up
            losses += up <= drawn < up + down
        seen += mcnemar(gains, losses) < 0.05

    # Connor's formula is the normal test's; the exact one sees a little less often.
    assert 0.68 < seen / runs < 0.88


def test_no_difference_can_be_seen_in_a_handful() -> None:
    assert detectable(0, 5, alpha=0.05) is None
    assert detectable(6, 6, alpha=0.05) is not None


@given(st.integers(6, 2_000), st.data())
def test_more_items_or_more_agreement_show_more(n: int, data: st.DataObject) -> None:
    discordant = data.draw(st.integers(0, n))
    here = detectable(discordant, n, alpha=0.05)

    assert here is not None
    assert 0 < here <= 1
    assert here >= (detectable(2 * discordant, 2 * n, alpha=0.05) or 1) - 1e-9
    if discordant:
        assert here >= (detectable(discordant - 1, n, alpha=0.05) or 1) - 1e-9
    assert here <= (detectable(discordant, n, alpha=0.01) or 1) + 1e-9
