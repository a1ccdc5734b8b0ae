"""Who answers where the alias's own version cannot, and what is told and kept of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.settings import QueueSettings, Timeouts
from tests.acceptance.live import wait_for
from tests.stub.script import Asked, Script

from .conftest import MakeStack
from .stack import Stack
from .test_canary import ROLLOUT, publish, told
from .test_queue import FREE, FULL, metric
from .wire import CHAT, ROUTES, body_for, read

PATIENT = Timeouts(connect=1, first_byte=1, idle=1, worker_wait=10, fallback_wait=0.5)


def options(stack: Stack, alias: str = "support", **given: Any) -> None:
    with stack.live.admin() as admin:
        answer = admin.put(f"/admin/v1/adapters/{alias}/options", json=given)
    assert answer.status_code == 200, answer.text


def broken(*names: str) -> Script:
    """Adapters under these names answer nothing but 500."""

    def pick(asked: Asked) -> Script | None:
        return Script(fault="error") if asked.model.startswith(names) else None

    return Script(pick=pick)


def post(stack: Stack, model: str, route: str = CHAT, **more: Any) -> httpx.Response:
    with stack.live.http() as http:
        return http.post(route, json=body_for(route, model, "Hello", **more))


def test_the_next_of_the_chain_answers(make_stack: MakeStack) -> None:
    stack = make_stack(timeouts=PATIENT)
    for name in ("support", "triage"):
        stack.publish(name, stack.source(name, seed=len(name)))
        assert stack.routable(name)
    options(stack, fallback=["triage", "base"])
    with stack.live.admin() as admin:
        mine = {"owner": "shop", "aliases": ["support"]}
        secret = admin.post("/admin/v1/keys", json=mine).json()["key"]
    stack.workers[0].script = broken("support@")
    began = time.monotonic()
    for route in ROUTES:
        for stream in (False, True):
            answer = post(stack, "support", route, stream=stream)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-adapter-version"] == "triage@1"
            assert answer.headers["x-fallback-from"] == "support@1"
            got = read(route, answer.text, stream=stream)
            assert got.model == "triage@1"
            assert "I am triage@1-" in got.text
    assert time.monotonic() - began < 6 * PATIENT.worker_wait / 2
    pinned = post(stack, "support@1")
    assert (pinned.status_code, pinned.json()["error"]["code"]) in (
        (502, "worker_failed"),
        (503, "no_worker"),
    )

    stack.workers[0].script = broken("support@", "triage@")
    # The right to an alias covers its fallbacks, though not by their names.
    with stack.live.http() as http:
        http.headers["authorization"] = f"Bearer {secret}"
        answer = http.post(CHAT, json=body_for(CHAT, "support", "Hello"))
        assert (answer.status_code, answer.json()["model"]) == (200, "base@0")
        assert http.post(CHAT, json=body_for(CHAT, "triage", "Hello")).status_code == 404
        path = f"/v1/feedback/{answer.json()['id']}"
        known = wait_for(lambda: (b := http.get(path).json())["status"] == "linked" and b, 30)
        assert known
        assert (known["model"], known["fallback_from"]) == ("base@0", "support@1")
        page = http.get("/metrics").text
    labels = (
        'adapterloop_fallbacks_total{answered="triage@1",tenant="default",wanted="support@1"} 6.0'
    )
    assert labels in page


def test_nobody_waits_long_for_a_version_while_another_is_ready(make_stack: MakeStack) -> None:
    stack = make_stack(timeouts=PATIENT.model_copy(update={"worker_wait": 40.0}))
    stack.publish("support", stack.source("one", seed=1))
    assert stack.routable("support")
    options(stack, fallback=["base"])
    worker = stack.workers[0]
    worker.kill()
    worker.worker.reboot()
    worker.worker.load_fault = "error"
    worker.start()
    assert stack.routable("base")
    for _ in range(3):
        began = time.monotonic()
        answer = post(stack, "support")
        assert answer.json()["model"] == "base@0", answer.text
        assert time.monotonic() - began < 20
    worker.worker.load_fault = "none"
    assert wait_for(lambda: post(stack, "support").json()["model"] == "support@1", 30)


def full(stack: Stack, worker: int, kv_usage: float) -> None:
    """Have one worker tell how full its cache is; returns once the gateway knows."""
    stack.workers[worker].worker.kv_usage = kv_usage
    name = f'adapterloop_worker_full{{worker="stub-{worker}"}}'
    assert wait_for(lambda: metric(stack, name) == (kv_usage == FULL), 30)


class TestFull:
    """The version is on the first worker only, the base on both."""

    @pytest.fixture
    def stack(self, make_stack: MakeStack) -> Stack:
        stack = make_stack(workers=2, timeouts=PATIENT, queue=QueueSettings(wait=60))
        stack.workers[1].worker.load_fault = "error"
        stack.publish("support", stack.source("one", seed=1))
        assert stack.routable("support")
        options(stack, fallback=["base"])
        return stack

    def test_nobody_waits_long_for_room_while_another_has_some(self, stack: Stack) -> None:
        full(stack, 0, FULL)
        for stream in (False, True):
            began = time.monotonic()
            answer = post(stack, "support", stream=stream)
            assert (answer.status_code, answer.headers["x-adapter-version"]) == (200, "base@0")
            assert answer.headers["x-fallback-from"] == "support@1"
            assert 500 <= int(answer.headers["x-queue-ms"]) < 20_000
            assert time.monotonic() - began < 20
        assert metric(stack, 'adapterloop_queue_seconds_count{end="fallback"}') == 2
        full(stack, 0, FREE)
        assert post(stack, "support").json()["model"] == "support@1"

    def test_the_queue_is_left_as_soon_as_another_has_room(self, stack: Stack) -> None:
        full(stack, 0, FULL)
        full(stack, 1, FULL)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(post, stack, "support")
            assert wait_for(lambda: metric(stack, "adapterloop_queue") == 1, 30)
            # Longer than a fallback is waited for: none could answer, so the call still waits.
            assert not wait_for(call.done, 3 * PATIENT.fallback_wait)
            full(stack, 1, FREE)
            answer = call.result(30)
        assert (answer.status_code, answer.json()["model"]) == (200, "base@0")

    def test_the_version_answers_that_has_room_in_time(self, stack: Stack) -> None:
        full(stack, 0, FULL)
        full(stack, 1, FULL)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(post, stack, "support")
            assert wait_for(lambda: metric(stack, "adapterloop_queue") == 1, 30)
            full(stack, 0, FREE)
            answer = call.result(30)
        assert (answer.status_code, answer.json()["model"]) == (200, "support@1")
        assert "x-fallback-from" not in answer.headers


def test_all_that_could_answer_are_full(make_stack: MakeStack) -> None:
    stack = make_stack(timeouts=PATIENT, queue=QueueSettings(wait=2))
    stack.publish("support", stack.source("one", seed=1))
    assert stack.routable("support")
    options(stack, fallback=["base"])
    full(stack, 0, FULL)
    answer = post(stack, "support")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    # The queue's full time for the version, and a fallback's for the base.
    assert int(answer.headers["x-queue-ms"]) >= 2500
    assert int(answer.headers["retry-after"]) >= 1


def test_all_of_the_chain_is_away(make_stack: MakeStack) -> None:
    short = Timeouts(connect=1, first_byte=1, idle=1, worker_wait=2, fallback_wait=0.5)
    stack = make_stack(timeouts=short)
    stack.publish("support", stack.source("one", seed=1))
    options(stack, fallback=["base"])
    stack.workers[0].kill()
    post(stack, "support")  # by the end of this one the gateway knows that the worker is gone
    began = time.monotonic()
    answer = post(stack, "support")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    # It does not wait for the ten seconds of the default, whatever a slow machine adds.
    assert 1.5 < time.monotonic() - began < 10


def test_a_canary_that_others_answer_for_is_rolled_back(make_stack: MakeStack) -> None:
    stack = make_stack(rollout=ROLLOUT)
    assert stack.promote("support", 0).status_code == 200
    options(stack, fallback=["base"])

    def failing(asked: Asked) -> Script | None:
        # Its proof goes well, its answers do not.
        measures = "prompt_logprobs" in asked.body or "logprob_token_ids" in asked.body
        mine = asked.model.startswith("support@") and not measures
        return Script(fault="error") if mine and asked.last == "Hello" else None

    stack.workers[0].script = Script(pick=failing)
    publish(stack, "a", 1, "base")
    statuses: set[int] = set()

    def rolled_back() -> bool:
        statuses.add(post(stack, "support").status_code)
        return told(stack)["candidate"] is None

    assert wait_for(rolled_back, 90), stack.controller.tail()
    assert statuses == {200}
    end = told(stack)["events"][-1]
    assert (end["kind"], end["actor"]) == ("rollback", "controller")
    assert end["detail"]["hard_faults"] >= 1
    assert end["detail"]["answers"] == 0
