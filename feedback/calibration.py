"""How well sureness tells right answers from wrong ones, by reviewed answers. Pure.

A label weighs one over the probability with which its answer came to be reviewed, so that what is
said holds for all answers, not for the doubtful ones that reviewers mostly see. All figures of a
calibrated model are of answers that it was not fitted to (five folds).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

FEWEST = 30
"""Labels below which no model is fitted: sureness is taken as it is."""
ISOTONIC = 1000
"""Labels from which on the isotonic model is fitted rather than Platt's."""
_FOLDS = 5
_BINS = 10
_COVERAGES = tuple(n / 10 for n in range(1, 11))
_STEPS = 50

Model = Callable[[float], float]
"""From a score to the chance, 0..1, that the answer is right."""


@dataclass(frozen=True, slots=True)
class Label:
    """A reviewed answer: its `score` (mean logprob), whether it is right, and its weight."""

    score: float
    right: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Fit:
    """What the labels show; None where they are too few, or all alike.

    `method` is mean (no model), platt or isotonic. `risk_coverage` gives, for the surest share of
    the answers, the share of wrong ones among them.
    """

    method: str
    auroc: float | None
    brier: float | None
    ece: float | None
    risk_coverage: Sequence[tuple[float, float]]


def fit(labels: Sequence[Label]) -> Fit:
    """Fit and measure a model of the labels, the oldest first."""
    alike = len({label.right for label in labels}) < 2 or len({x.score for x in labels}) < 2
    if len(labels) < FEWEST or alike:
        curve = risk_coverage(labels, [label.score for label in labels])
        return Fit("mean", auroc(labels, [x.score for x in labels]), None, None, curve)
    method = "isotonic" if len(labels) >= ISOTONIC else "platt"
    make = isotonic if method == "isotonic" else platt
    chances = [0.0] * len(labels)
    for fold in range(_FOLDS):
        model = make([x for at, x in enumerate(labels) if at % _FOLDS != fold])
        for at in range(fold, len(labels), _FOLDS):
            chances[at] = model(labels[at].score)
    return Fit(
        method,
        auroc(labels, chances),
        _mean(labels, [(p - x.right) ** 2 for x, p in zip(labels, chances, strict=True)]),
        ece(labels, chances),
        risk_coverage(labels, chances),
    )


def platt(labels: Sequence[Label]) -> Model:
    """Fit a logistic curve with Platt's smoothed targets, by Newton's method.

    J. Platt, Probabilistic outputs for support vector machines, 1999.
    """
    scale = len(labels) / sum(x.weight for x in labels)
    good = sum(x.right for x in labels)
    targets = {True: (good + 1) / (good + 2), False: 1 / (len(labels) - good + 2)}
    center = sum(x.score for x in labels) / len(labels)
    slope, level = 0.0, math.log((good + 1) / (len(labels) - good + 1))
    for _ in range(_STEPS):
        g0 = g1 = h00 = h01 = 0.0
        h11 = 1e-9
        for x in labels:
            at, w = x.score - center, x.weight * scale
            p = _logistic(slope * at + level)
            error, bend = w * (targets[x.right] - p), w * p * (1 - p)
            g0, g1 = g0 + error, g1 + error * at
            h00, h01, h11 = h00 + bend, h01 + bend * at, h11 + bend * at * at
        det = h00 * h11 - h01 * h01
        if det <= 1e-12:
            break
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        level, slope = level + step0, slope + step1
        if abs(step0) + abs(step1) < 1e-9:
            break
    return lambda score: _logistic(slope * (score - center) + level)


def isotonic(labels: Sequence[Label]) -> Model:
    """Fit the best curve that never falls, by pooling adjacent violators."""
    pools: list[tuple[float, float, float]] = []  # the highest score, right weight, all weight
    for x in sorted(labels, key=lambda x: x.score):
        top, right, weight = x.score, x.weight * x.right, x.weight
        while pools and (pools[-1][0] == top or pools[-1][1] * weight >= right * pools[-1][2]):
            _, more, heavier = pools.pop()
            right, weight = right + more, weight + heavier
        pools.append((top, right, weight))
    tops = [top for top, _, _ in pools]
    chances = [right / weight for _, right, weight in pools]
    return lambda score: chances[min(bisect_left(tops, score), len(tops) - 1)]


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))


def _mean(labels: Sequence[Label], values: Sequence[float]) -> float:
    total = sum(x.weight for x in labels)
    return sum(x.weight * value for x, value in zip(labels, values, strict=True)) / total


def auroc(labels: Sequence[Label], scores: Sequence[float]) -> float | None:
    """Give the chance that a right answer scores above a wrong one; ties count half."""
    below = total = wrong = 0.0
    right = sum(x.weight for x in labels if x.right)
    by_score: dict[float, list[float]] = {}
    for x, score in zip(labels, scores, strict=True):
        by_score.setdefault(score, [0.0, 0.0])[x.right] += x.weight
    for score in sorted(by_score):
        bad, good = by_score[score]
        below += good * (wrong + bad / 2)
        wrong += bad
    total = right * wrong
    return below / total if total else None


def ece(labels: Sequence[Label], chances: Sequence[float]) -> float:
    """Give the expected calibration error, over ten bins of equal width."""
    bins: dict[int, list[int]] = {}
    for at, chance in enumerate(chances):
        bins.setdefault(min(_BINS - 1, int(chance * _BINS)), []).append(at)
    total = sum(x.weight for x in labels)
    return (
        sum(
            abs(sum(labels[at].weight * (chances[at] - labels[at].right) for at in places))
            for places in bins.values()
        )
        / total
    )


def risk_coverage(labels: Sequence[Label], scores: Sequence[float]) -> list[tuple[float, float]]:
    """Give, for the surest tenth of the answers, two tenths and so on, the share of wrong ones."""
    ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    total = sum(x.weight for x in labels)
    curve, at, weight, wrong = [], 0, 0.0, 0.0
    for coverage in _COVERAGES if labels else ():
        while at < len(ranked) and (weight < coverage * total - 1e-9 or not weight):
            weight += ranked[at][1].weight
            wrong += ranked[at][1].weight * (not ranked[at][1].right)
            at += 1
        curve.append((coverage, wrong / weight))
    return curve


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval; `items` were looked at."""

    value: float
    low: float
    high: float
    items: int


def rate(hits: Sequence[bool], weights: Sequence[float], level: float = 0.95) -> Rate | None:
    """Estimate a share from weighted draws: Wilson's interval on Kish's effective number."""
    total = sum(weights)
    if not hits or total <= 0:
        return None
    value = sum(weight for weight, hit in zip(weights, hits, strict=True) if hit) / total
    n = total * total / sum(weight * weight for weight in weights)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Rate(value, max(0.0, middle - half), min(1.0, middle + half), len(hits))
