"""Two hundred simulated canaries, looked at after every answer."""

from __future__ import annotations

from bench.canaries import EQUAL_ANSWERS, RUNS, WORSE_ANSWERS, World, simulate


def test_equal_candidates_are_promoted_and_worse_ones_rolled_back() -> None:
    equal = simulate(World(), RUNS, EQUAL_ANSWERS, seed=3)
    assert equal["roll_back"] <= 0.05 * RUNS
    assert equal["promote"] >= 0.80 * RUNS
    worse = simulate(World(worse_by=0.1), RUNS, WORSE_ANSWERS, seed=4)
    assert worse["roll_back"] >= 0.95 * RUNS


def test_other_hours_in_the_last_step_are_no_difference_of_the_versions() -> None:
    equal = simulate(World(later=3.0), 60, 3_000, seed=5)
    assert equal["roll_back"] <= 0.05 * 60
