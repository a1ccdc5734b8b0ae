"""Shadow rollouts in real processes: copies that nobody is shown, and what follows from them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import func, select

from feedback.db import make_engine, reading
from feedback.tables import CAPTURES, REVIEW_ITEMS, SHADOW_PAIRS, USAGE
from gateway.settings import RolloutSettings, ShadowSettings, Timeouts
from tests.acceptance.live import wait_for
from tests.stub.script import Asked, Script

from .conftest import MakeStack
from .stack import Stack
from .test_canary import ask, told

BODY = {"model": "support", "messages": [{"role": "user", "content": "Hello"}]}
ALL = {"share": 1, "answers": 20}


def versions(stack: Stack) -> None:
    """Register two versions of `support` and promote the first."""
    stack.publish("support", stack.source("one", seed=1))
    stack.publish("support", stack.source("two", seed=2), promote=False)
    assert stack.routable("support")


def begin(stack: Stack, shadow: Mapping[str, Any] = ALL, **more: Any) -> None:
    with stack.live.admin() as admin:
        body = {"version": 2, "steps": [0.5, 1], "shadow": shadow, **more}
        begun = admin.post("/admin/v1/adapters/support/rollout", json=body)
    assert begun.status_code == 200, begun.text
    found = begun.json()
    assert (found["candidate"], found["weight"]) == (2, 0)


def count(stack: Stack, table: Any) -> int:
    engine = make_engine(stack.settings.database_url)
    try:
        with reading(engine) as connection:
            return int(connection.scalar(select(func.count()).select_from(table)) or 0)
    finally:
        engine.dispose()


def fates(stack: Stack) -> dict[str, float]:
    page = httpx.get(f"{stack.live.root}/metrics", timeout=60).text.splitlines()
    name = 'adapterloop_shadows_total{fate="'
    lines = [line.removeprefix(name) for line in page if line.startswith(name)]
    return {line.partition('"')[0]: float(line.split()[-1]) for line in lines}


def only_second(script: Script) -> Script:
    """Version 2 answers by this script, all else as usual."""

    def pick(asked: Asked) -> Script | None:
        return script if asked.model.startswith("support@2-") else None

    return Script(pick=pick)


def copies(stack: Stack) -> int:
    seen = stack.workers[0].worker.seen.requests
    return sum(asked.model.startswith("support@2-") for asked in seen)


def test_an_equal_candidate_goes_on_to_its_first_callers(make_stack: MakeStack) -> None:
    stack = make_stack()
    versions(stack)
    before = copies(stack)
    begin(stack)
    served, ids = set(), []
    streamed = {**BODY, "stream": True, "seed": 7}

    def moved() -> bool:
        with stack.live.http() as http:
            answer = ask(http)
            text = http.post("/v1/chat/completions", json=streamed).text
        if told(stack)["weight"]:
            return True  # and these two may have been among its first callers
        served.add(answer.headers["x-adapter-version"])
        served.add(json.loads(text.splitlines()[0].removeprefix("data: "))["model"])
        ids.append(answer.json()["id"])
        return False

    assert wait_for(moved, 60), f"{fates(stack)} {stack.controller.tail()}"
    assert served == {"support@1"}
    now, move = told(stack), told(stack)["events"][-1]
    assert (now["weight"], now["shadow"], now["candidate"]) == (0.5, 0, 2)
    assert (move["actor"], move["detail"]["step"]) == ("controller", 0)
    assert move["detail"]["pairs"] >= 20
    assert move["detail"]["same_text"] == 0  # each introduces itself
    assert set(move["detail"]["measures"]) == {"errors", "blocks", "seconds"}
    asked = list(stack.workers[0].worker.seen.requests)
    mine = [one for one in asked if one.model.startswith("support@2-")][before:]
    assert {bool(one.body.get("stream")) for one in mine} == {True, False}
    assert all(one.body["seed"] == 7 for one in mine if one.body.get("stream"))
    with stack.live.http() as http:
        found = http.get(f"/v1/feedback/{ids[0]}").json()
        assert found["model"] == "support@1"


def test_a_worse_candidate_is_rolled_back_and_no_client_has_seen_it(make_stack: MakeStack) -> None:
    stack = make_stack()
    versions(stack)
    stack.workers[0].script = only_second(Script(fault="error"))
    begin(stack, {"share": 1, "answers": 1000})
    seen = set()

    def ended() -> bool:
        with stack.live.http() as http:
            for _ in range(5):
                answer = ask(http)
                seen.add((answer.status_code, answer.json()["model"]))
        return told(stack)["candidate"] is None

    assert wait_for(ended, 60), f"{fates(stack)} {stack.controller.tail()}"
    assert seen == {(200, "support@1")}
    end = told(stack)
    assert (end["stable"], end["shadow"]) == (1, 0)
    move = end["events"][-1]
    assert (move["kind"], move["actor"]) == ("rollback", "controller")
    assert move["detail"]["reason"].startswith("errors are worse: 100 against 0 points")
    page = httpx.get(f"{stack.live.root}/metrics", timeout=60).text
    # Its failures say nothing of the worker, which goes on serving the stable version.
    assert 'adapterloop_worker_circuit{state="closed",worker="stub-0"} 1.0' in page


def test_calls_of_users_do_not_notice_a_candidate_that_hangs(make_stack: MakeStack) -> None:
    shadow = ShadowSettings(in_flight=2)
    stack = make_stack(rollout=RolloutSettings(shadow=shadow))
    versions(stack)
    stack.workers[0].script = only_second(Script(fault="hang"))
    begin(stack)
    slowest = 0.0
    with stack.live.http() as http:
        for _ in range(40):
            began = time.monotonic()
            assert ask(http).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 20  # a hanging worker is given two minutes
    assert wait_for(lambda: fates(stack)["limit"] >= 30, 60), fates(stack)
    began = time.monotonic()
    stack.gateway.stop()  # and neither does its shutdown
    assert time.monotonic() - began < 18  # calls are given twenty seconds


def test_copies_give_way_to_a_call_that_has_to_wait(make_stack: MakeStack) -> None:
    stack = make_stack()
    versions(stack)
    worker = stack.workers[0]
    worker.script = only_second(Script(fault="hang"))
    begin(stack)
    with stack.live.http() as http:
        assert ask(http).status_code == 200
        assert wait_for(lambda: worker.worker.seen.running == 1, 60)
        worker.worker.kv_usage = 1.0
        aborted = worker.worker.seen.aborted

        def waits() -> bool:
            page = httpx.get(f"{stack.live.root}/metrics", timeout=60).text
            return 'adapterloop_worker_full{worker="stub-0"} 1.0' in page

        assert wait_for(waits, 60)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, http)
            assert wait_for(lambda: worker.worker.seen.aborted > aborted, 60)
            assert wait_for(lambda: fates(stack)["gave_way"] == 1, 60)
            worker.worker.kv_usage = 0.0
            assert waiting.result().status_code == 200


def test_copies_are_counted_nowhere_and_a_killed_gateway_leaves_nothing_wrong(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(
        timeouts=Timeouts(connect=1, first_byte=5, idle=5, worker_wait=10),
    )
    versions(stack)
    begin(stack, {"share": 1, "answers": 100_000})
    with stack.live.admin() as admin:
        limited = {"owner": "shop", "requests_per_minute": 1000, "tokens_per_minute": 100_000}
        secret = admin.post("/admin/v1/keys", json=limited).json()["key"]
        hidden = {"owner": "gate", "role": "app", "purpose": "evaluation"}
        evaluates = admin.post("/admin/v1/keys", json=hidden).json()["key"]
    left, ids = [], set()
    with stack.live.http() as http:
        http.headers["authorization"] = f"Bearer {secret}"
        for number in range(1, 31):
            answer = ask(http)
            left.append(int(answer.headers["x-ratelimit-remaining-requests"]))
            ids |= {answer.json()["id"], f"shadow-{answer.json()['id']}"}
            assert wait_for(lambda n=number: fates(stack)["paired"] == n, 60), fates(stack)
        for model in ("support@1", "support@2", "base"):
            answer = ask(http, model)  # pinned, or another alias
            assert answer.status_code == 200
            ids.add(answer.json()["id"])
        http.headers["authorization"] = f"Bearer {evaluates}"
        assert ask(http).status_code == 200
    assert left[0] - left[-1] <= 29  # one each, less what a minute gives back
    assert fates(stack)["paired"] == 30
    assert stack.kept(ids)
    stack.gateway.stop(signal.SIGKILL)
    assert wait_for(lambda: ids <= stack.stored(), 60)
    stack.gateway.start()
    stack.wait_ready()
    assert count(stack, SHADOW_PAIRS) == 30
    captured = count(stack, CAPTURES)
    engine = make_engine(stack.settings.database_url)
    with reading(engine) as connection:
        pairs = connection.execute(select(SHADOW_PAIRS)).mappings().all()
        used = connection.execute(select(func.sum(USAGE.c.requests))).scalar_one()
        items = connection.execute(select(REVIEW_ITEMS.c.response_id)).scalars().all()
        captures = set(connection.execute(select(CAPTURES.c.id)).scalars())
    engine.dispose()
    assert used == captured
    assert set(items) <= captures
    assert {pair["id"] for pair in pairs} <= captures
    assert all(pair["candidate_seconds"] > 0 for pair in pairs)
    assert all(pair["candidate_mean"] is not None for pair in pairs)
    with stack.live.http() as http:
        assert ask(http).json()["model"] == "support@1"
    assert wait_for(lambda: count(stack, SHADOW_PAIRS) == 31, 60)
    with stack.live.admin() as admin:  # a person ends it as any rollout
        assert admin.post("/admin/v1/adapters/support/rollback").json()["shadow"] == 0
