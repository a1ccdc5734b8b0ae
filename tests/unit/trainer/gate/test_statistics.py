from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.gate.statistics import (
    bootstrap_interval,
    detectable,
    holm,
    mcnemar,
    paired_interval,
    score_interval,
)

COUNTS = st.integers(0, 60)


@pytest.mark.parametrize(
    ("gains", "losses", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (5, 0, 0.0625),  # 2 / 2**5
        (6, 0, 0.03125),
        (0, 10, 2 / 1024),
        (9, 2, 2 * (1 + 11 + 55) / 2048),
        (8, 1, 2 * (1 + 9) / 512),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(gains: int, losses: int, p: float) -> None:
    assert mcnemar(gains, losses) == pytest.approx(p, rel=1e-12)


@given(COUNTS, COUNTS)
def test_mcnemar_agrees_with_the_plain_sum(gains: int, losses: int) -> None:
    n, few = gains + losses, min(gains, losses)
    tail = sum(math.comb(n, i) for i in range(few + 1)) / 2**n
    assert mcnemar(gains, losses) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar(gains, losses) == mcnemar(losses, gains)


def test_mcnemar_holds_for_large_counts() -> None:
    assert 0 < mcnemar(60_000, 40_000) < 1e-100
    assert mcnemar(50_100, 49_900) == pytest.approx(math.erfc(200 / math.sqrt(2e5)), rel=0.01)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_score_interval_of_a_published_example() -> None:
    """Tango (1998): 44 pairs, of which one is discordant."""
    found = score_interval(1, 0, 44)
    assert (found.low, found.high) == pytest.approx((-0.0600, 0.1184), abs=0.005)


@given(st.integers(5, 200), st.data())
def test_the_score_interval_holds_its_estimate_and_is_antisymmetric(
    n: int, data: st.DataObject
) -> None:
    gains = data.draw(st.integers(0, n))
    losses = data.draw(st.integers(0, n - gains))
    found, other = score_interval(gains, losses, n), score_interval(losses, gains, n)
    assert -1 <= found.low <= (gains - losses) / n <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((-other.high, -other.low), abs=1e-6)


def test_no_discordant_pair_still_leaves_room_for_a_loss() -> None:
    z2 = 1.959964**2
    assert score_interval(0, 0, 60).low == pytest.approx(-z2 / (60 + z2), abs=1e-4)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=5, max_size=60), st.integers())
def test_the_paired_interval_does_not_depend_on_the_order(values: list[float], seed: int) -> None:
    mixed = list(values)
    random.Random(seed).shuffle(mixed)
    settings_ = {"level": 0.95, "resamples": 1000, "seed": 7}
    one = paired_interval(values, **settings_)  # type: ignore[arg-type]
    assert one == paired_interval(mixed, **settings_)  # type: ignore[arg-type]
    assert one.low <= sum(values) / len(values) <= one.high


def test_the_bootstrap_covers_about_as_often_as_it_says() -> None:
    draws, hits, rounds = random.Random(7), 0, 200
    for _ in range(rounds):
        sample = [float(draws.random() < 0.4) - float(draws.random() < 0.3) for _ in range(100)]
        found = bootstrap_interval(sample, level=0.95, resamples=1000, seed=7)
        hits += found.low <= 0.1 <= found.high
    assert 0.90 <= hits / rounds <= 0.99


@pytest.mark.parametrize(("n", "points"), [(200, 6.2), (500, 4.0)])
def test_what_could_be_seen_with_a_tenth_of_the_items_changing(n: int, points: float) -> None:
    found = detectable(n // 10, n, alpha=0.05)
    assert found is not None
    assert 100 * found == pytest.approx(points, abs=0.2)


def test_too_few_items_can_show_nothing() -> None:
    assert detectable(0, 5, alpha=0.05) is None
    few, many = detectable(0, 20, alpha=0.05), detectable(0, 200, alpha=0.05)
    assert few is not None
    assert many is not None
    assert few > many > 0
