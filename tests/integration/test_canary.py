"""The base behind an alias, and canaries of published versions, in real processes."""

from __future__ import annotations

from typing import Any

import httpx

from gateway.settings import RolloutSettings
from tests.acceptance.live import wait_for
from tests.stub.script import Asked, Script

from .conftest import MakeStack
from .stack import Stack

ROLLOUT = RolloutSettings(evidence="answers", steps=(0.5,), answers=5)


def ask(http: httpx.Client, model: str = "support") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return http.post("/v1/chat/completions", json=body)


def told(stack: Stack) -> dict[str, Any]:
    with stack.live.admin() as admin:
        found: dict[str, Any] = admin.get("/admin/v1/adapters/support").json()
        return found


def publish(stack: Stack, name: str, seed: int, against: str) -> int:
    """Register a version, say that it passed, and publish it."""
    number = stack.publish("support", stack.source(name, seed=seed), promote=False)
    report = {"alias": "support", "candidate": f"support@{number}", "against": against}
    with stack.live.admin() as admin:
        gate = {**report, "verdict": "PASS", "report": {}}
        admin.post("/admin/v1/gates", json=gate).raise_for_status()
        body = {"version": number, "job_id": f"job-{number}"}
        begun = admin.post("/admin/v1/adapters/support/publish", json=body)
        assert (begun.status_code, begun.json()["candidate"]) == (200, number), begun.text
    return number


def test_the_base_then_a_canary_that_holds_and_one_that_faults(make_stack: MakeStack) -> None:
    stack = make_stack(rollout=ROLLOUT)
    assert stack.promote("support", 0).status_code == 200
    with stack.live.http() as http, stack.live.admin() as admin:
        answer = ask(http).json()
        assert answer["model"] == "base@0"
        assert ask(http, "support@0").status_code == 200
        path = f"/v1/feedback/{answer['id']}"
        known = wait_for(lambda: (b := http.get(path).json())["status"] == "linked" and b, 30)
        assert known
        assert known["model"] == "support@0"  # under the alias that was called
        flag = {"response_id": answer["id"], "rating": "down", "correction": "Better."}
        assert http.post("/v1/feedback", json=flag).json()["status"] == "linked"
        (item,) = admin.get("/admin/v1/review", params={"reason": "flagged"}).json()["data"]
        assert (item["alias"], item["version"], item["model"]) == ("support", 0, "support@0")

        first = publish(stack, "a", 1, "base")

        def promoted() -> bool:
            assert ask(http).status_code == 200
            return bool(told(stack)["stable"] == first)

        assert wait_for(promoted, 90), stack.controller.tail()
        move = told(stack)["events"][-1]
        assert (move["kind"], move["actor"]) == ("promote", "controller")
        assert move["detail"]["answers"] >= ROLLOUT.answers
        assert (move["detail"]["hard_faults"], move["detail"]["job_id"]) == (0, f"job-{first}")

        second = publish(stack, "b", 2, f"support@{first}")
        stack.controller.stop()  # another leader goes on
        stack.controller.start()

        def broken(asked: Asked) -> Script | None:
            return Script(fault="error") if asked.model.startswith(f"support@{second}-") else None

        stack.workers[0].script = Script(pick=broken)

        def rolled_back() -> bool:
            ask(http)
            return told(stack)["candidate"] is None

        assert wait_for(rolled_back, 90), stack.controller.tail()
        end = told(stack)
        assert (end["stable"], end["events"][-1]["kind"]) == (first, "rollback")
        assert end["events"][-1]["detail"]["hard_faults"] >= 1
        assert wait_for(lambda: "is rolled back" in stack.controller.tail(), 30)
        back = admin.post("/admin/v1/adapters/support/rollback").json()
        assert (back["stable"], back["previous"]) == (0, first)
        assert ask(http).json()["model"] == "base@0"
