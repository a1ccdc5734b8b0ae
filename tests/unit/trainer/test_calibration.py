"""The chance of a wrong answer, from how sure the version was."""

from __future__ import annotations

import math
import random

import pytest

from trainer.calibration import calibrate
from trainer.evaluation import Answer, Evaluation


def evaluation(*answers: tuple[float | None, bool]) -> Evaluation:
    """Golden answers by their confidence and whether they were right."""
    return Evaluation(
        "support@1",
        "d" * 64,
        tuple(
            Answer(str(at), "", "?", "yes", "yes" if right else "no", confidence)
            for at, (confidence, right) in enumerate(answers)
        ),
    )


def test_the_chance_that_made_the_answers_is_found() -> None:
    draw = random.Random(5)
    made = []
    for _ in range(4000):
        score = draw.uniform(-2, 0)
        made.append((score, draw.random() < 1 / (1 + math.exp(-(3.0 * score + 2.0)))))
    found = calibrate(evaluation(*made))
    assert found is not None
    assert found.slope == pytest.approx(3.0, abs=0.3)
    assert found.intercept == pytest.approx(2.0, abs=0.3)
    assert found.items == 4000


def test_answers_apart_by_their_sureness_do_not_run_off() -> None:
    found = calibrate(evaluation(*[(-0.1, True)] * 30, *[(-2.0, False)] * 30))
    assert found is not None
    sure = 1 / (1 + math.exp(found.slope * -0.1 + found.intercept))
    unsure = 1 / (1 + math.exp(found.slope * -2.0 + found.intercept))
    assert sure == pytest.approx(1 / 32, abs=0.005)
    assert unsure == pytest.approx(31 / 32, abs=0.005)


@pytest.mark.parametrize(
    "answers",
    [
        [(-0.1, True), (-2.0, False)],  # few
        [(-0.1, True)] * 40,  # all right
        [(-0.5, True)] * 20 + [(-0.5, False)] * 20,  # all as sure
        [(-2.0, True)] * 20 + [(-0.1, False)] * 20,  # surer ones are wrong
    ],
)
def test_where_sureness_says_nothing_the_rate_does(answers: list[tuple[float, bool]]) -> None:
    found = calibrate(evaluation(*answers))
    assert found is not None
    assert found.slope == 0
    wrong = sum(not right for _, right in answers)
    assert 1 / (1 + math.exp(found.intercept)) == pytest.approx((wrong + 1) / (len(answers) + 2))


def test_without_confidence_there_is_none() -> None:
    assert calibrate(evaluation((None, True), (None, False))) is None
