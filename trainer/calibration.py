"""How often an answer of a version is wrong, given how sure the version was of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer.evaluation import Evaluation
from trainer.metrics import exact_match

FEWEST = 30
"""Answers below which the sureness is not believed to say anything."""
_STEPS = 50


@dataclass(frozen=True, slots=True)
class Calibration:
    """Chance that an answer is wrong: `1 / (1 + exp(slope * confidence + intercept))`.

    `confidence` is the mean log-probability of the answer's tokens, in nats; `items` is how many
    answers it rests on.
    """

    slope: float
    intercept: float
    items: int

    def to_dict(self) -> dict[str, float]:
        """Give it as JSON."""
        return asdict(self)


def calibrate(evaluation: Evaluation) -> Calibration | None:
    """Fit the chance of a wrong answer to a version's golden answers; None where none is scored.

    An answer is right by exact match. Platt's scaling with his smoothed targets (J. Platt,
    Probabilistic outputs for support vector machines, 1999). Where the answers are few, all alike,
    or surer ones are no better, it is the rate of wrong ones alone.
    """
    seen = [
        (answer.confidence, exact_match(answer.said, answer.expected))
        for answer in evaluation.answers
        if answer.confidence is not None
    ]
    if not seen:
        return None
    scores, right = [score for score, _ in seen], [ok for _, ok in seen]
    n, good = len(right), sum(right)
    flat = Calibration(0.0, math.log((good + 1) / (n - good + 1)), n)
    if n < FEWEST or good in (0, n) or len(set(scores)) == 1:
        return flat
    slope, intercept = _platt(scores, right)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope <= 0:
        return flat
    return Calibration(round(slope, 6), round(intercept, 6), n)


def _platt(scores: Sequence[float], right: Sequence[bool]) -> tuple[float, float]:
    """Give slope and intercept of the log-odds that an answer is right, by Newton's method."""
    good = sum(right)
    targets = {True: (good + 1) / (good + 2), False: 1 / (len(right) - good + 2)}
    center = sum(scores) / len(scores)
    slope, at_center = 0.0, math.log(good / (len(right) - good))
    for _ in range(_STEPS):
        g0 = g1 = h00 = h01 = 0.0
        h11 = 1e-9
        for score, ok in zip(scores, right, strict=True):
            x = score - center
            chance = 1 / (1 + math.exp(-max(-30.0, min(30.0, slope * x + at_center))))
            error, weight = targets[ok] - chance, chance * (1 - chance)
            g0, g1 = g0 + error, g1 + error * x
            h00, h01, h11 = h00 + weight, h01 + weight * x, h11 + weight * x * x
        det = h00 * h11 - h01 * h01
        if det <= 1e-12:
            break
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        at_center, slope = at_center + step0, slope + step1
        if abs(step0) + abs(step1) < 1e-9:
            break
    return slope, at_center - slope * center
