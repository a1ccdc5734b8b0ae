"""Canaries judged by how likely their live answers are wrong, in real processes.

All that tells these versions apart is how sure they are of their answers, and what their golden
answers say of that.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.settings import RolloutSettings
from tests.acceptance.live import wait_for
from tests.stub.script import Asked, Script
from trainer.calibration import calibrate
from trainer.evaluation import Answer, Evaluation

from .conftest import MakeStack
from .stack import Stack

# How long the answers of a stub take says nothing here.
ROLLOUT = RolloutSettings(steps=(0.5,), answers=60, slower=100.0)


def golden(version: str, shyness: float = 0.0) -> dict[str, float]:
    """What 400 golden answers tell, of which the same ones are right, so much less surely."""
    draw, answers = random.Random(5), []
    for at in range(400):
        sureness = draw.uniform(-2.0, 0.0)
        right = draw.random() < 1 / (1 + math.exp(-(3.0 * sureness + 2.0)))
        said = "yes" if right else "no"
        answers.append(Answer(str(at), "", "?", "yes", said, sureness - shyness))
    found = calibrate(Evaluation(version, "d" * 64, tuple(answers)))
    assert found is not None
    return found.to_dict()


def sure(means: dict[str, float]) -> Script:
    """Have each version be as sure as told, more so of some users' questions than of others'."""

    def pick(asked: Asked) -> Script | None:
        shift = (zlib.crc32(asked.last.encode()) % 7 - 3) / 10
        mean = means.get(asked.model.partition("-")[0])
        return Script(sureness=mean + shift, eos=False) if mean is not None else None

    return Script(pick=pick)


def publish(stack: Stack, candidate: dict[str, float], against: dict[str, float]) -> str:
    """Register a version, say that it passed with these calibrations, and begin its canary."""
    made = stack.live.adapter("support")
    seed = len(made["versions"]) + 1
    number = stack.publish("support", stack.source(f"s{seed}", seed=seed), promote=False)
    gate = {
        "alias": "support",
        "candidate": f"support@{number}",
        "against": f"support@{made['stable']}",
        "verdict": "PASS",
        "report": {"calibration": {"candidate": candidate, "against": against}},
    }
    with stack.live.admin() as admin:
        admin.post("/admin/v1/gates", json=gate).raise_for_status()
        begun = admin.post("/admin/v1/adapters/support/publish", json={"version": number})
        assert (begun.status_code, begun.json()["candidate"]) == (200, number), begun.text
    return f"support@{number}"


def ended(stack: Stack, http: httpx.Client, users: itertools.count[int]) -> Callable[[], Any]:
    """Call as one more user, and give the alias's last move once the canary has ended."""

    def ask() -> Any:
        user = f"user-{next(users)}"
        body = {"model": "support", "messages": [{"role": "user", "content": user}], "user": user}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        told = stack.live.adapter("support")
        return told["events"][-1] if told["candidate"] is None else None

    return ask


def test_answers_that_are_likely_wrong_roll_a_candidate_back_and_shy_ones_do_not(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(rollout=ROLLOUT)
    assert stack.publish("support", stack.source("s1", seed=1)) == 1
    stack.workers[0].script = sure({"support@1": -0.5, "support@2": -1.5, "support@3": -1.5})
    users = itertools.count()

    # As often right as version 1, and a nat less sure of it.
    assert publish(stack, golden("support@2", 1.0), golden("support@1")) == "support@2"
    with stack.live.http() as http:
        move = wait_for(ended(stack, http, users), 100)
    assert move, stack.controller.tail()
    assert (move["kind"], move["actor"]) == ("promote", "controller"), move
    risks = move["detail"]["measures"]["risks"]
    assert risks["candidate"] == pytest.approx(risks["stable"], abs=0.1)
    assert min(risks["calls"]) >= ROLLOUT.answers / 2
    assert risks["worse"] < 1 / ROLLOUT.alpha

    # As sure as version 2, which its golden answers were where most of them were wrong.
    assert publish(stack, golden("support@3"), golden("support@2", 1.0)) == "support@3"
    with stack.live.http() as http:
        move = wait_for(ended(stack, http, users), 100)
    assert move, stack.controller.tail()
    assert (move["kind"], move["actor"]) == ("rollback", "controller"), move
    assert move["detail"]["reason"].startswith("risks are worse: ")
    measures = move["detail"]["measures"]
    assert measures["risks"]["candidate"] > 0.7 > 0.5 > measures["risks"]["stable"]
    assert all(one["worse"] < 1 for name, one in measures.items() if name != "risks"), measures
    assert stack.live.adapter("support")["stable"] == 2
    said = "support@3 is rolled back: risks are worse: "
    assert wait_for(lambda: said in stack.controller.tail(), 10)
