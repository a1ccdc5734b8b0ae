"""When a canary goes on, gets more callers, is promoted, or is rolled back. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.rollout.sequential import Arm, Evidence, compare

HARD_FAULTS = ("failed", "worker_failed")
"""Outcomes that are the version's own fault; a worker that is away or a client that left is not."""
LONGEST_S = 120.0
"""Seconds that an answer counts for at most: one that hung must not outweigh a thousand others."""

Kind = Literal["go_on", "step", "promote", "roll_back"]
Shown = Literal["worse", "fine", "open"]


@dataclass(frozen=True, slots=True)
class Measure:
    """Something of which less is better, of both versions; `rate` where each call counts 0 or 1.

    A candidate that is worse by `margin` must not be promoted. `noise` is a squared standard error
    that no number of calls takes away. One that is not `required` can end a rollout, and no
    promotion waits for it. The unit is a share of the answers, unless `unit` names another.
    """

    name: str
    candidate: Arm
    stable: Arm
    margin: float
    rate: bool = True
    noise: float = 0.0
    required: bool = True
    unit: str = ""

    def evidence(self) -> Evidence:
        """Weigh candidate against stable."""
        return compare(self.candidate, self.stable, self.margin, rate=self.rate, noise=self.noise)

    def told(self, evidence: Evidence, alpha: float) -> dict[str, Any]:
        """Give the numbers for the record; null where nothing can be said yet."""
        low, high = evidence.bounds(alpha, self.margin)
        numbers = {
            "candidate": self.candidate.mean,
            "stable": self.stable.mean,
            "difference": evidence.difference,
            "low": low,
            "high": high,
            "margin": self.margin,
            "worse": evidence.worse,
            "fine": evidence.fine,
        }
        return {
            **{
                name: float(f"{value:.6g}") if math.isfinite(value) else None
                for name, value in numbers.items()
            },
            "calls": [self.candidate.calls, self.stable.calls],
            "users": [self.candidate.users, self.stable.users],
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided when the rollout began.

    `steps` are the rising shares of the callers, `answers` is how many the candidate gives at each
    of them at least. With `test`, measures decide; without, the answers at the last step suffice.
    Where not `promotes`, the last share stays until a person decides.
    """

    steps: tuple[float, ...]
    answers: int
    test: bool = True
    alpha: float = 0.05
    promotes: bool = True

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> Plan:
        """Read it from the record; those of earlier releases hold `answers` only."""
        steps = tuple(detail.get("steps") or (detail.get("weight", 1.0),))
        return cls(
            tuple(share for share in steps if share < 1) or steps,
            int(detail.get("answers", 1)),
            test=detail.get("evidence", "answers") == "test",
            alpha=float(detail.get("alpha", 0.05)),
            promotes=bool(detail.get("promotes", True)),
        )

    def alpha_of(self, step: int) -> float:
        """Give a step's part of `alpha`: greater shares get more; a shadow, before them, has all.

        A worse candidate is found where it has calls, and that is where the chance is spent.
        """
        return self.alpha * self.steps[step] / sum(self.steps) if step >= 0 else self.alpha


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout stands: its step, the candidate's answers in it, and its hard faults."""

    step: int
    answers: int
    hard_faults: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows, with the reason for people and the numbers it rests on."""

    kind: Kind
    reason: str
    numbers: Mapping[str, Any]


def standing(
    measures: Sequence[Measure], plan: Plan, step: int
) -> list[tuple[Measure, Evidence, Shown]]:
    """Weigh all measures of a step and say what is shown of each.

    That one is worse takes evidence beyond its part of the step's part of `alpha`; that it is fine
    takes `alpha`, since one step alone promotes.
    """
    part = plan.alpha_of(step) / max(1, len(measures))
    found: list[tuple[Measure, Evidence, Shown]] = []
    for measure in measures:
        evidence = measure.evidence()
        if evidence.worse >= 1 / part:
            found.append((measure, evidence, "worse"))
        elif evidence.fine >= 1 / plan.alpha:
            found.append((measure, evidence, "fine"))
        else:
            found.append((measure, evidence, "open"))
    return found


def decide(plan: Plan, state: State, measures: Sequence[Measure]) -> Decision:
    """Look at a rollout by what was measured in its present step; as often as one likes.

    Among equals, at most `alpha` of all rollouts are ever rolled back; `alpha` is shared by the
    steps and the measures. Each required one must be shown not to be worse by its margin before the
    candidate is promoted.
    """
    if not plan.test:
        return _by_answers(plan, state)
    found = standing(measures, plan, state.step)
    for measure, _, shown in found:
        if shown == "worse":
            reason = f"{measure.name} are worse: {_told(measure)}"
            return _decision("roll_back", reason, found, plan)
    if state.step < len(plan.steps) - 1:
        if state.answers < plan.answers:
            return Decision("go_on", f"{state.answers} of {plan.answers} answers", {})
        share = f"{100 * plan.steps[state.step + 1]:g}%"
        reason = f"nothing is shown to be worse after {state.answers} answers: on to {share}"
        return _decision("step", reason, found, plan)
    open_ = [m.name for m, _, shown in found if m.required and shown == "open"]
    if open_ or state.answers < plan.answers:
        waits = ", ".join(open_) or f"{plan.answers} answers"
        return Decision("go_on", f"not decided yet: {waits}", {})
    if not plan.promotes:
        return Decision("go_on", "shown to be no worse; a person promotes it", {})
    return _decision("promote", "shown to be no worse in any measure", found, plan)


def _by_answers(plan: Plan, state: State) -> Decision:
    numbers = {"answers": state.answers, "hard_faults": state.hard_faults, "needed": plan.answers}
    if state.hard_faults:
        reason = f"{state.hard_faults} of its calls failed on the worker"
        return Decision("roll_back", reason, numbers)
    if state.answers < plan.answers:
        return Decision("go_on", f"{state.answers} of {plan.answers} answers", numbers)
    reason = f"{state.answers} answers without a hard fault"
    if state.step < len(plan.steps) - 1:
        return Decision("step", reason, numbers)
    return Decision("promote" if plan.promotes else "go_on", reason, numbers)


def _told(measure: Measure) -> str:
    scale, unit = (1, measure.unit) if measure.unit else (100, " points")
    return (
        f"{scale * measure.candidate.mean:.3g} against {scale * measure.stable.mean:.3g}{unit}"
        f" over {measure.candidate.calls} and {measure.stable.calls} calls"
    )


def _decision(
    kind: Kind, reason: str, found: Sequence[tuple[Measure, Evidence, Shown]], plan: Plan
) -> Decision:
    told = {measure.name: measure.told(evidence, plan.alpha) for measure, evidence, _ in found}
    return Decision(kind, reason, {"measures": told})
