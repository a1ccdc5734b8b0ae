"""Calibration: the figures by hand, the fits on answers whose chances are known."""

from __future__ import annotations

import random

import pytest

from feedback.calibration import Label, auroc, ece, fit, isotonic, platt, rate, risk_coverage


def drawn(count: int, seed: int = 7) -> list[Label]:
    """Answers that are right with the chance 1 + score."""
    chance = random.Random(seed)
    scores = [-chance.random() for _ in range(count)]
    return [Label(score, chance.random() < 1 + score) for score in scores]


def test_figures_by_hand() -> None:
    labels = [Label(-1.0, False), Label(-2.0, True), Label(-0.5, True), Label(-0.2, True, 2.0)]
    assert auroc(labels, [x.score for x in labels]) == pytest.approx(3 / 4)
    assert auroc(labels, [0.0] * 4) == pytest.approx(1 / 2)
    assert auroc(labels[1:], [0.0] * 3) is None
    # One bin says 0.3 of one that is wrong, another 0.9 of four that are right.
    assert ece(labels, [0.3, 0.9, 0.9, 0.9]) == pytest.approx((0.3 + 0.1 * 4) / 5)
    curve = dict(risk_coverage(labels, [x.score for x in labels]))
    assert (curve[0.4], curve[0.8], curve[1.0]) == pytest.approx((0, 1 / 4, 1 / 5))
    assert risk_coverage([], []) == []


def test_few_labels_are_taken_as_they_are() -> None:
    few = fit(drawn(29))
    assert (few.method, few.brier, few.ece) == ("mean", None, None)
    assert few.auroc is not None
    assert fit([Label(-0.1, True)] * 50).method == "mean"
    none = fit([])
    assert (none.auroc, none.risk_coverage) == (None, [])


@pytest.mark.parametrize(("count", "method"), [(400, "platt"), (2000, "isotonic")])
def test_more_labels_are_calibrated(count: int, method: str) -> None:
    found = fit(drawn(count))
    assert found.method == method
    assert found.auroc is not None
    assert found.brier is not None
    assert found.ece is not None
    # By the law that they are drawn from: 5/6 and 1/6.
    assert found.auroc == pytest.approx(5 / 6, abs=0.05)
    assert found.brier == pytest.approx(1 / 6, abs=0.03)
    assert found.ece < 0.08
    risks = [risk for _, risk in found.risk_coverage]
    assert risks[-1] == pytest.approx(1 / 2, abs=0.06)
    assert risks[0] < risks[4] < risks[9]


@pytest.mark.parametrize("make", [platt, isotonic])
def test_weights_undo_what_the_choice_of_labels_did(make: type) -> None:
    """Of the unsure ones ten times as many are reviewed."""
    chance = random.Random(3)
    labels = []
    for _ in range(6000):
        unsure = chance.random() < 0.5
        if unsure or chance.random() < 0.1:
            right = chance.random() < (0.2 if unsure else 0.9)
            labels.append(Label(-2.0 if unsure else -0.1, right, 1.0 if unsure else 10.0))
    model = make(labels)
    assert model(-2.0) == pytest.approx(0.2, abs=0.05)
    assert model(-0.1) == pytest.approx(0.9, abs=0.05)
    assert model(-9.0) <= model(-2.0) <= model(-0.1) <= model(0.0)


def test_a_rate_with_its_interval() -> None:
    """Wilson's interval, from a table; unequal weights make it wider."""
    plain = rate([True] * 10 + [False] * 90, [1.0] * 100)
    assert plain is not None
    assert (plain.value, plain.low, plain.high) == pytest.approx((0.1, 0.0552, 0.1744), abs=1e-4)
    uneven = rate([True] * 10 + [False] * 90, [1.0, 9.0] * 50)
    assert uneven is not None
    assert uneven.high - uneven.low > plain.high - plain.low
    assert rate([], []) is None
