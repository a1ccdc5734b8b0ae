"""What follows from a rollout's measures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.rollout.rule import Measure, Plan, State, decide
from gateway.rollout.sequential import Arm

PLAN = Plan((0.1, 0.5), answers=25)
GOOD = Arm.of([(1, 0)] * 200)
BAD = Arm.of([(1, 0)] * 120 + [(1, 1)] * 80)
FEW = Arm.of([(1, 0)] * 5)


def measures(candidate: Arm, stable: Arm = GOOD) -> list[Measure]:
    return [Measure("flags", candidate, stable, 0.05), Measure("errors", GOOD, GOOD, 0.05)]


@pytest.mark.parametrize(
    ("state", "candidate", "kind"),
    [
        (State(0, 24, 0), GOOD, "go_on"),
        (State(0, 25, 0), GOOD, "step"),
        (State(0, 25, 0), FEW, "step"),
        (State(1, 24, 0), GOOD, "go_on"),
        (State(1, 25, 0), GOOD, "promote"),
        (State(1, 500, 0), FEW, "go_on"),
        (State(0, 3, 0), BAD, "roll_back"),
        (State(1, 500, 0), BAD, "roll_back"),
    ],
)
def test_steps_then_proof(state: State, candidate: Arm, kind: str) -> None:
    assert decide(PLAN, state, measures(candidate)).kind == kind


def test_the_record_says_why_and_can_be_written() -> None:
    found = decide(PLAN, State(0, 9, 0), measures(BAD))
    assert found.reason == "flags are worse: 40 against 0 points over 200 and 200 calls"
    told = json.loads(json.dumps(found.numbers, allow_nan=False))["measures"]
    assert told["flags"]["low"] > 0.2
    assert told["flags"]["users"] == [200, 200]
    unknown = decide(PLAN, State(0, 25, 0), measures(FEW)).numbers["measures"]["flags"]
    assert (unknown["low"], unknown["high"], unknown["worse"]) == (None, None, 0)


def test_each_measure_must_be_shown_to_be_fine() -> None:
    open_ = [*measures(GOOD), Measure("blocks", FEW, FEW, 0.05)]
    found = decide(PLAN, State(1, 500, 0), open_)
    assert (found.kind, found.reason) == ("go_on", "not decided yet: blocks")


def test_steps_share_the_chance_to_roll_an_equal_one_back() -> None:
    """Each step is judged by its own calls, so each may be wrong once."""
    hardly = [Measure("flags", Arm.of([(1, 0)] * 190 + [(1, 1)] * 10), GOOD, 0.05)]
    worse = hardly[0].evidence().worse
    alpha = 1 / worse
    for steps, kind in (((0.5,), "roll_back"), ((0.1, 0.5), "go_on")):
        plan = Plan(steps, answers=500, alpha=alpha)
        assert decide(plan, State(len(steps) - 1, 25, 0), hardly).kind == kind
    three = Plan((0.1, 0.3, 0.6), answers=500)
    assert [three.alpha_of(step) / three.alpha for step in range(3)] == pytest.approx(three.steps)
    shadow = Plan((0.1, 0.5), answers=500, alpha=alpha)
    assert decide(shadow, State(-1, 25, 0), hardly).kind == "roll_back"


def test_without_one_as_the_last_step_a_person_promotes() -> None:
    plan = replace(PLAN, promotes=False)
    assert decide(plan, State(1, 500, 0), measures(GOOD)).kind == "go_on"
    assert decide(plan, State(1, 500, 0), measures(BAD)).kind == "roll_back"


def test_by_answers_alone() -> None:
    plan = Plan((0.3,), answers=10, test=False)
    assert decide(plan, State(0, 9, 0), []).kind == "go_on"
    assert decide(plan, State(0, 10, 0), []).kind == "promote"
    assert decide(plan, State(0, 99, 1), []).kind == "roll_back"
    assert decide(replace(plan, steps=(0.1, 0.3)), State(0, 10, 0), []).kind == "step"
