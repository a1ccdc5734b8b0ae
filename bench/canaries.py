"""Simulated canaries: how often equal candidates are rolled back, and worse ones are not.

Users call with a heavy-tailed frequency, differ in how often they flag, and keep their version; the
rule looks after every answer. `python -m bench.canaries`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from gateway.rollout.rule import Measure, Plan, State, decide
from gateway.rollout.sequential import Arm
from gateway.settings import RolloutSettings

RUNS, EQUAL_ANSWERS, WORSE_ANSWERS = 200, 20_000, 2_000


@dataclass(frozen=True, slots=True)
class World:
    """Who calls: `flagged` of the stable's answers, users alike within themselves by `alike`.

    In the last step, which is in other hours, answers of both are flagged `later` times as often.
    """

    flagged: float = 0.1
    worse_by: float = 0.0
    users: int = 1000
    alike: float = 0.05
    tail: float = 1.5
    later: float = 1.0


def canary(world: World, answers: int, rng: np.random.Generator) -> tuple[str, int]:
    """Play one canary; gives how it ended (`go_on`: not at all) and after how many answers."""
    settings = RolloutSettings()
    plan = Plan.of(settings.plan())
    rates = np.array([_rates(world, rng, by) for by in (0.0, world.worse_by)])
    often = rng.pareto(world.tail, world.users) + 1
    callers = rng.choice(world.users, answers, p=often / often.sum())
    places, chances = rng.random(world.users), rng.random(answers)
    quiet, seen = Arm.of([(1, 0)] * 1000), np.zeros((2, world.users, 2), int)
    arms, answered, step = (Arm(), Arm()), 0, 0
    for number, user in enumerate(callers):
        arm = int(places[user] < plan.steps[step])
        had = seen[arm, user]
        arms[arm].add(int(had[0]), int(had[1]), -1)
        often_now = rates[arm, user] * (world.later if step == len(plan.steps) - 1 else 1.0)
        had += (1, chances[number] < often_now)
        arms[arm].add(int(had[0]), int(had[1]))
        answered += arm
        # Nothing else ever happens; those measures take their part of alpha nevertheless.
        measures = [
            Measure("flags", arms[1], arms[0], settings.margin),
            *(Measure(name, quiet, quiet, settings.margin) for name in ("blocks", "errors")),
            Measure("seconds", quiet, quiet, settings.margin),
        ]
        found = decide(plan, State(step, answered, 0), measures)
        if found.kind == "step":
            step, answered = step + 1, 0
            arms, seen = (Arm(), Arm()), np.zeros_like(seen)
        elif found.kind != "go_on":
            return found.kind, number + 1
    return "go_on", answers


def _rates(world: World, rng: np.random.Generator, by: float) -> np.ndarray:
    mean, size = world.flagged + by, (1 - world.alike) / world.alike
    return rng.beta(mean * size, (1 - mean) * size, world.users)


def simulate(world: World, runs: int, answers: int, seed: int = 1) -> Counter[str]:
    """Count how `runs` canaries ended."""
    rng = np.random.default_rng(seed)
    return Counter(canary(world, answers, rng)[0] for _ in range(runs))


def figures(world: World) -> dict[str, float]:
    """Give the shares of equal and of worse candidates that were promoted and rolled back."""
    equal = simulate(world, RUNS, EQUAL_ANSWERS)
    worse = simulate(_worse(world), RUNS, WORSE_ANSWERS)
    return {
        "runs": RUNS,
        "equal_rolled_back": equal["roll_back"] / RUNS,
        "equal_promoted": equal["promote"] / RUNS,
        "worse_rolled_back": worse["roll_back"] / RUNS,
        "worse_promoted": worse["promote"] / RUNS,
    }


def main() -> None:
    """Print the shares for several worlds."""
    for world in (
        World(),
        World(flagged=0.02),
        World(flagged=0.2),
        World(alike=0.2, users=2000),
        World(alike=0.1, users=300, tail=3.0),
        World(later=3.0),
    ):
        print(json.dumps({**asdict(world), **figures(world)}))


def _worse(world: World) -> World:
    return World(**{**asdict(world), "worse_by": 0.1})


if __name__ == "__main__":
    main()
