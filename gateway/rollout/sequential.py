"""An always-valid test of one version against another, for users who come back.

The controller looks at a canary again and again and stops when it likes, which an ordinary test
does not survive. This one does: its evidence is a likelihood ratio, mixed over a half-normal prior,
which under the null hypothesis exceeds 1/alpha at any time with probability alpha at most (Ville's
inequality; Robbins 1970, Johari et al. 2017; for estimated variances in the limit, Waudby-Smith et
al. 2021). Calls of one user are alike, so variances are taken over users, not over calls. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ALIKE = 0.1
"""Assumed correlation of one user's calls; it only sets how much each user weighs."""
FEWEST_USERS = 12
"""Users of each version below which variances over users say nothing."""


@dataclass(slots=True)
class Arm:
    """One version's figures: weighted sums over its users, who can be added and taken out.

    A user's calls weigh 1 / (1 + ALIKE * (calls - 1)) each, the best weights where calls of one
    user correlate by ALIKE: the hundredth call of a user tells little that is new, and no user can
    speak for all. Whatever the true correlation is, the variance is right.
    """

    users: int = 0
    calls: int = 0
    n: float = 0.0
    total: float = 0.0
    nn: float = 0.0
    nt: float = 0.0
    tt: float = 0.0
    own: float = 0.0

    @classmethod
    def of(cls, users: Iterable[tuple[int, float]]) -> Arm:
        """Sum users, each the number of calls and the sum of their values."""
        arm = cls()
        for calls, total in users:
            arm.add(calls, total)
        return arm

    def add(self, calls: int, total: float, sign: int = 1) -> None:
        """Add a user, or take one out with `sign` -1."""
        if not calls:
            return
        weight = 1 / (1 + ALIKE * (calls - 1))
        n, t = weight * calls, weight * total
        self.users += sign
        self.calls += sign * calls
        self.n += sign * n
        self.total += sign * t
        self.nn += sign * n * n
        self.nt += sign * n * t
        self.tt += sign * t * t
        self.own += sign * weight * n

    @property
    def mean(self) -> float:
        """The weighted mean; 0 where there is nobody."""
        return self.total / self.n if self.users else 0.0

    def variance(self, floor: float) -> float:
        """Give the squared standard error of the mean, robust to users who are alike in themselves.

        `floor` is the least variance of one call: no difference seen is not no difference.
        """
        if self.users < 2:
            return math.inf
        mean = self.mean
        spread = max(self.tt - 2 * mean * self.nt + mean * mean * self.nn, 0.0)
        return max(spread * self.users / (self.users - 1), floor * self.own) / (self.n * self.n)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of candidate minus stable: estimate, squared standard error, and evidence.

    `worse` speaks against "not worse", `fine` against "worse by the margin or more"; either is
    enough at 1/alpha.
    """

    difference: float
    variance: float
    worse: float
    fine: float

    def bounds(self, alpha: float, scale: float) -> tuple[float, float]:
        """Give bounds each of which holds at all times together with probability 1 - alpha."""
        if not math.isfinite(self.variance):
            return -math.inf, math.inf
        reach = _reach(self.variance, alpha, scale)
        return self.difference - reach, self.difference + reach


def compare(
    candidate: Arm, stable: Arm, margin: float, *, rate: bool = False, noise: float = 0.0
) -> Evidence:
    """Weigh a measure of which less is better; for rates, values are 0 or 1.

    The prior's scale is the margin: effects of that size are those that matter. `noise` is a
    squared standard error besides that of the calls.
    """
    difference = candidate.mean - stable.mean
    if min(candidate.users, stable.users) < FEWEST_USERS:
        return Evidence(difference, math.inf, 0.0, 0.0)
    if rate:
        n = candidate.n + stable.n
        pooled = (candidate.total + stable.total + 0.5) / (n + 1)
        floor = pooled * (1 - pooled)
    else:
        floor = 1e-12
    variance = candidate.variance(floor) + stable.variance(floor) + noise
    return Evidence(
        difference,
        variance,
        e_value(difference, variance, margin),
        e_value(margin - difference, variance, margin),
    )


def e_value(estimate: float, variance: float, scale: float) -> float:
    """Give the evidence that a quantity is above 0: the mixed likelihood ratio against 0.

    `estimate` has the squared standard error `variance`; `scale` is the half-normal prior's.
    """
    return math.exp(min(_log_e(estimate, variance, scale), 700.0))


def _log_e(estimate: float, variance: float, scale: float) -> float:
    wide = variance + scale * scale
    shrunk = scale * estimate / math.sqrt(variance * wide)
    return 0.5 * math.log(variance / wide) + 0.5 * shrunk * shrunk + _log_twice_phi(shrunk)


def _log_twice_phi(x: float) -> float:
    """Give log(2 Phi(x)), also far out in the lower tail."""
    if x > -30:
        return math.log(math.erfc(-x / math.sqrt(2)))
    return -0.5 * x * x - math.log(-x) - 0.5 * math.log(math.pi / 2)


def _reach(variance: float, alpha: float, scale: float) -> float:
    """Give the estimate whose evidence is just enough, by bisection."""
    low, high = 0.0, math.sqrt(variance)
    wanted = -math.log(alpha)
    while _log_e(high, variance, scale) < wanted:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_e(middle, variance, scale) < wanted else (low, middle)
    return high
