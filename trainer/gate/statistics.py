"""The gate's statistics for paired answers, none of which looks at the answers themselves.

Where a pair's outcome is right or wrong, `gains` counts the pairs that only the candidate has right
and `losses` those that only the other has; with the number of pairs they say all there is to say.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FEW = 10  # pairs that differ; below it a bootstrap has too little to draw from
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of a difference, lower and upper."""

    low: float
    high: float

    def around(self, other: Interval) -> Interval:
        """Give the smallest interval that holds both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))


def mcnemar(gains: int, losses: int) -> float:
    """Give the exact two-sided p of McNemar's test (1947), in (0, 1].

    Twice the smaller tail of Binomial(gains + losses, 1/2), at most 1. The tail is summed in units
    of its largest term, so it neither overflows nor vanishes where counts are large.
    """
    few, pairs = min(gains, losses), gains + losses
    if 2 * few >= pairs - 1:  # the two tails cover everything
        return 1.0
    share, term = 0.0, 1.0
    for i in range(few, -1, -1):
        share += term
        term *= i / (pairs - i + 1)
        if term < share * sys.float_info.epsilon:
            break
    top = math.lgamma(pairs + 1) - math.lgamma(few + 1) - math.lgamma(pairs - few + 1)
    log_p = top + math.log(share) + (1 - pairs) * math.log(2)
    return min(1.0, max(math.exp(log_p), sys.float_info.min))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down (1979), in the order given."""
    adjusted, worst = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = worst
    return adjusted


def score_interval(gains: int, losses: int, n: int, level: float = 0.95) -> Interval:
    """Give the score interval of a difference of paired proportions.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17 (1998) 891-908: all differences that a score
    test does not reject. It keeps its width where no pair differs.
    """
    z = _z((1 + level) / 2)
    observed = (gains - losses) / n
    low = _root(lambda at: _score(gains, losses, n, at) - z, -1.0, observed)
    high = _root(lambda at: _score(gains, losses, n, at) + z, observed, 1.0)
    return Interval(low, high)


def _score(gains: int, losses: int, n: int, at: float) -> float:
    """Give Tango's statistic for the hypothesis that the difference is `at`."""
    b = (2 * n - gains + losses) * at - (gains + losses)
    c = -losses * at * (1 - at)
    root = math.sqrt(max(0.0, b * b - 8 * n * c))
    # The most likely share of losses under the hypothesis; two forms, against cancellation.
    q = (root - b) / (4 * n) if b <= 0 else (-2 * c / (root + b) if root + b > 0 else 0.0)
    variance = n * (2 * q + at * (1 - at))
    return (gains - losses - n * at) / math.sqrt(max(variance, sys.float_info.min))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function crosses 0 between two places, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bootstrap_interval(
    differences: Sequence[float], *, level: float, resamples: int, seed: int
) -> Interval:
    """Give the percentile bootstrap interval of the mean of paired differences.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. The differences are
    sorted first and each draw is used a second time mirrored: so neither the order of the items
    nor which version is called the candidate changes what is found, and a better answer never
    lowers a bound.
    """
    ordered = np.sort(np.asarray(differences, dtype=np.float64))
    n = len(ordered)
    draws = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    left = (resamples + 1) // 2
    while left:
        rows = min(left, max(1, _DRAWN_AT_ONCE // n))
        drawn = draws.integers(0, n, size=(rows, n), dtype=np.int32)
        means += [ordered[drawn].mean(axis=1), ordered[n - 1 - drawn].mean(axis=1)]
        left -= rows
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    middle = math.fsum(differences) / n
    return Interval(min(float(low), middle), max(float(high), middle))


def paired_interval(
    differences: Sequence[float], *, level: float, resamples: int, seed: int
) -> Interval:
    """Give a conservative interval of the mean of differences between -1 and 1.

    The bootstrap's, widened to Tango's where all differences are -1, 0 or 1. Other differences are
    widened where fewer than `FEW` are not 0: a mean is at least minus the share of the items that
    lost and at most the share that gained, and Tango's interval bounds both shares.
    """
    n = len(differences)
    gains = sum(difference > 0 for difference in differences)
    losses = sum(difference < 0 for difference in differences)
    drawn = bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    if all(difference in (-1, 0, 1) for difference in differences):
        return drawn.around(score_interval(gains, losses, n, level))
    if gains + losses >= FEW:
        return drawn
    least, most = score_interval(0, losses, n, level), score_interval(gains, 0, n, level)
    return drawn.around(Interval(least.low, most.high))


def detectable(discordant: int, n: int, *, alpha: float, power: float = 0.8) -> float | None:
    """Give the smallest true difference that McNemar's test on n pairs would probably show.

    "Probably" is `power`. R. J. Connor, Sample size for testing differences in proportions for the
    paired-sample design, Biometrics 43 (1987) 207-211, equation for n solved for the difference d
    at the observed share of discordant pairs s: d * sqrt(n) = z_a * sqrt(s) + z_b * sqrt(s - d^2).
    It is never below what the exact test needs when all discordant pairs point the same way, which
    is also the answer where none is discordant. None: too few pairs to show any difference.
    """
    floor = _least_detectable(n, alpha, power)
    if floor is None:
        return None
    share, z_a, z_b = discordant / n, _z(1 - alpha / 2), _z(power)
    inner = max(0.0, n - z_a**2 + z_b**2)
    difference = math.sqrt(share) * (z_a * math.sqrt(n) + z_b * math.sqrt(inner)) / (n + z_b**2)
    return min(1.0, max(floor, difference))


def _least_detectable(n: int, alpha: float, power: float) -> float | None:
    """Give the share d at which Binomial(n, d) often enough reaches a significant count."""
    needed = math.ceil(1 - math.log2(alpha))  # 2 * 0.5**needed <= alpha
    if n < needed:
        return None

    def missing(share: float) -> float:
        below = sum(
            math.comb(n, i) * share**i * (1 - share) ** (n - i) if n < 1000 else _term(n, i, share)
            for i in range(needed)
        )
        return power - (1 - below)

    return _root(missing, 0.0, 1.0)


def _term(n: int, i: int, share: float) -> float:
    chosen = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    return math.exp(chosen + i * math.log(share) + (n - i) * math.log1p(-share))


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
