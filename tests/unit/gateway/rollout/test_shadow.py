"""What follows from pairs of answers, and how seldom it is wrong."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from gateway.rollout.rule import Plan
from gateway.rollout.sequential import Arm
from gateway.rollout.shadow import Paired, Pairs, after, decide_shadow, least_spread, shadowed
from gateway.settings import RolloutSettings

PLAN = Plan((0.1, 0.5), answers=25, alpha=0.025)
SETTINGS = RolloutSettings()
SHADOW = {"share": 0.2, "answers": 50}


class Seen:
    """Pairs as they come: differences of a rate and of seconds, each call by one of some users."""

    def __init__(self, users: int = 10_000) -> None:
        self.users = users
        self.rate, self.seconds = Arm(), Arm()
        self.sums: dict[int, list[float]] = {}
        self.count, self.faults, self.total, self.squares = 0, 0, 0, 0.0

    def add(self, fault: int = 0, slower: float = 0.0) -> None:
        user = self.count % self.users
        sums = self.sums.setdefault(user, [0, 0.0, 0.0])
        for sign in (-1, 1):
            self.rate.add(int(sums[0]), sums[1], sign)
            self.seconds.add(int(sums[0]), sums[2], sign)
            if sign < 0:
                sums[:] = [sums[0] + 1, sums[1] + fault, sums[2] + slower]
        self.count, self.faults = self.count + 1, self.faults + (fault > 0)
        self.total, self.squares = self.total + fault, self.squares + fault * fault

    @property
    def pairs(self) -> Pairs:
        spread = least_spread(self.count, self.total, self.squares)
        none = Arm()
        rate = Paired("errors", none, none, 0.05, differences=self.rate, spread=spread)
        time = Paired(
            "seconds", none, none, 0.25, rate=False, differences=self.seconds, allowed=0.25
        )
        return Pairs(self.count, self.faults, [rate, time], 0.1, 0.5)


def after_pairs(count: int, users: int = 10_000, **each: Any) -> Seen:
    seen = Seen(users)
    for number in range(count):
        seen.add(**{name: value(number) for name, value in each.items()})
    return seen


def test_enough_pairs_with_nothing_against_it_lead_to_the_first_callers() -> None:
    for count, kind in ((49, "go_on"), (50, "step")):
        found = decide_shadow(PLAN, 50, after_pairs(count).pairs)
        assert found.kind == kind
    assert "on to 10%" in found.reason
    told = json.loads(json.dumps(found.numbers, allow_nan=False))
    assert (told["pairs"], told["same_text"], told["logprob_difference"]) == (50, 0.5, 0.1)
    assert set(told["measures"]) == {"errors", "seconds"}


def test_failures_of_its_own_end_it_before_that() -> None:
    seen = after_pairs(40, fault=lambda n: int(n % 2))
    found = decide_shadow(PLAN, 50, seen.pairs)
    assert (found.kind, found.reason.split(":")[0]) == ("roll_back", "errors are worse")
    # What both versions fail tells nothing of the candidate: no difference, no fault.
    assert decide_shadow(PLAN, 50, after_pairs(60).pairs).kind == "step"


@pytest.mark.parametrize(("slower", "kind"), [(0.1, "step"), (0.5, "roll_back")])
def test_slower_is_worse_only_beyond_the_margin(slower: float, kind: str) -> None:
    seen = after_pairs(60, slower=lambda n: slower + (n % 5 - 2) / 50)
    assert decide_shadow(PLAN, 60, seen.pairs).kind == kind


def test_few_users_say_nothing_against_it() -> None:
    seen = after_pairs(60, users=3, fault=lambda n: 1)
    assert decide_shadow(PLAN, 60, seen.pairs).kind == "step"


def test_without_a_test_one_fault_is_enough() -> None:
    plan = replace(PLAN, test=False)
    assert decide_shadow(plan, 50, after_pairs(50).pairs).kind == "step"
    assert decide_shadow(plan, 50, after_pairs(20).pairs).kind == "go_on"
    assert decide_shadow(plan, 50, after_pairs(20, fault=lambda n: n == 3).pairs).kind == (
        "roll_back"
    )


@pytest.mark.parametrize("users", [10_000, 40])
def test_equal_candidates_are_seldom_rolled_back_and_worse_ones_mostly(users: int) -> None:
    """Looked at after every pair, both versions fail 4% of the calls, or one 10% more."""
    ended = {0.0: 0, 0.1: 0}
    for worse in ended:
        for run in range(100):
            draw = random.Random(f"{worse}-{run}-{users}")
            seen = Seen(users)
            for _ in range(400):
                mine, theirs = draw.random() < 0.04 + worse, draw.random() < 0.04
                seen.add(int(mine) - int(theirs), draw.gauss(0, 0.3))
                if decide_shadow(PLAN, 10_000, seen.pairs).kind == "roll_back":
                    ended[worse] += 1
                    break
    assert ended[0.0] <= 5
    assert ended[0.1] >= 80


def test_the_record_begins_with_the_shadow_and_goes_on_without_it() -> None:
    driven = {**SETTINGS.plan(), "steps": [0.2, 1], "promotes": True}
    begun = shadowed(driven, SETTINGS, SHADOW)
    assert (begun["step"], begun["alpha"], begun["driven"]) == (-1, SETTINGS.alpha / 2, True)
    assert after(begun) == {**driven, "step": -1, "alpha": SETTINGS.alpha / 2}
    by_hand = shadowed({"steps": [0.2]}, SETTINGS, SHADOW)
    assert by_hand["driven"]
    assert not after(by_hand)["driven"]
