"""Workers that are full, and workers that fail, as callers see them."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from gateway.registry.snapshot import Priority
from gateway.serving import retries
from gateway.serving.breaker import FIRST_PAUSE_S, IN_A_ROW
from gateway.settings import QueueSettings
from tests.acceptance.live import wait_for
from tests.stub.script import Script

from .conftest import MakeStack
from .stack import Stack
from .test_feedback_api import rows
from .wire import CHAT, body_for, leaves_after, read

FULL, FREE = 0.99, 0.1


def key_of(stack: Stack, owner: str, priority: Priority = "normal") -> str:
    with stack.live.admin() as admin:
        made = admin.post("/admin/v1/keys", json={"owner": owner, "priority": priority})
    assert made.json()["priority"] == priority
    return str(made.json()["key"])


def metric(stack: Stack, name: str) -> float:
    """The sum of a metric's samples; `name` may hold labels."""
    page = httpx.get(f"{stack.live.root}/metrics", timeout=60).text
    found = re.findall(rf"^{re.escape(name)}(?:{{.*?}})? (\S+)$", page, re.MULTILINE)
    return sum(float(value) for value in found)


def say(stack: Stack, kv_usage: float) -> None:
    """Have every worker tell how full its cache is; returns once the gateway knows."""
    for worker in stack.workers:
        worker.worker.kv_usage = kv_usage
    full = len(stack.workers) if kv_usage == FULL else 0
    assert wait_for(lambda: metric(stack, "adapterloop_worker_full") == full, 30)


def asked_of(stack: Stack, worker: int) -> list[str]:
    """The words that a worker was asked, in turn."""
    return [asked.last for asked in stack.workers[worker].seen.requests]


def tries_of(seconds: float) -> float:
    """How often a worker that always fails may be tried in this time.

    Three times, and then after a pause of a second, of two, of four, and so on.
    """
    return IN_A_ROW + math.log2(1 + seconds / FIRST_PAUSE_S)


class Callers:
    """Calls that wait, each on a thread of its own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._pool = ThreadPoolExecutor(64)

    def queue(self, label: str, key: str | None = None, **more: Any) -> Future[httpx.Response]:
        """Begin a call, and return once it waits in the queue."""
        before = metric(self._stack, "adapterloop_queue")
        future = self.call(label, key, **more)
        assert wait_for(lambda: metric(self._stack, "adapterloop_queue") > before, 30)
        return future

    def call(self, label: str, key: str | None = None, **more: Any) -> Future[httpx.Response]:
        """Begin a call."""
        return self._pool.submit(self._post, label, key, more)

    def _post(self, label: str, key: str | None, more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self._stack.live.api_key}"}
        body = body_for(CHAT, "base", label, **more)
        url = self._stack.live.root + CHAT
        return httpx.post(url, json=body, headers=headers, timeout=120)


def begun(stack: Stack, label: str) -> HTTPConnection:
    """A call that was sent, whose answer nobody reads."""
    connection = HTTPConnection("127.0.0.1", stack.port)
    headers = {"authorization": f"Bearer {stack.live.api_key}"}
    connection.request("POST", CHAT, json.dumps(body_for(CHAT, "base", label)), headers)
    return connection


@pytest.fixture
def callers_of() -> Iterator[Callable[[Stack], Callers]]:
    """Makes callers, and waits for the last of them."""
    made: list[Callers] = []

    def make(stack: Stack) -> Callers:
        made.append(Callers(stack))
        return made[-1]

    yield make
    for callers in made:
        callers._pool.shutdown()


CallersOf = Callable[[Stack], Callers]


class TestFull:
    def test_calls_go_by_priority(self, make_stack: MakeStack, callers_of: CallersOf) -> None:
        stack = make_stack(workers=2, queue=QueueSettings(per_worker=1, wait=120))
        callers = callers_of(stack)
        high, low = key_of(stack, "h", "high"), key_of(stack, "l", "low")
        for worker in stack.workers:
            worker.script = Script(first_delay=0.3)
        say(stack, FULL)
        calls = [
            callers.queue("low", low),
            callers.queue("flex", service_tier="flex"),
            callers.queue("normal"),
            callers.queue("normal"),
            callers.queue("high", high),
            callers.queue("high", high),
        ]
        assert metric(stack, 'adapterloop_queue{priority="low"}') == 1 + 1
        assert stack.workers[0].seen.running == stack.workers[1].seen.running == 0
        for worker in stack.workers:
            worker.worker.kv_usage = FREE
        assert {call.result().status_code for call in calls} == {200}
        priorities = {"high": 0, "normal": 1, "low": 2, "flex": 2}
        for at in range(2):
            turns = [priorities[word] for word in asked_of(stack, at) if word in priorities]
            assert turns == sorted(turns)
        waited = [int(call.result().headers["x-queue-ms"]) for call in calls]
        assert min(waited) > 10
        assert [worker.seen.max_running for worker in stack.workers] == [1, 1]
        assert metric(stack, 'adapterloop_queue_seconds_count{end="served"}') == len(calls)

    def test_captures_tell_how_long_calls_waited(
        self, make_stack: MakeStack, callers_of: CallersOf
    ) -> None:
        stack = make_stack(queue=QueueSettings(wait=120))
        callers = callers_of(stack)
        at_once = callers.call("at once").result()
        say(stack, FULL)
        waits = callers.queue("waits")
        say(stack, FREE)
        answers = [at_once, waits.result()]
        assert [answer.status_code for answer in answers] == [200, 200]
        query = "SELECT id, queued, duration FROM captures"
        kept = wait_for(lambda: (found := rows(stack, query)) and len(found) == 2 and found, 60)
        found = {name: (queued, duration) for name, queued, duration in kept}
        assert found[at_once.json()["id"]][0] == 0
        queued, duration = found[waits.result().json()["id"]]
        assert queued == pytest.approx(int(waits.result().headers["x-queue-ms"]) / 1000, abs=0.001)
        assert 0 < queued <= duration

    def test_keys_take_turns(self, make_stack: MakeStack, callers_of: CallersOf) -> None:
        stack = make_stack(queue=QueueSettings(per_worker=1, wait=120))
        callers, other = callers_of(stack), key_of(stack, "other")
        stack.workers[0].script = Script(first_delay=0.2)
        say(stack, FULL)
        calls = [callers.queue("many") for _ in range(8)]
        calls += [callers.queue("few", other) for _ in range(2)]
        stack.workers[0].worker.kv_usage = FREE
        assert {call.result().status_code for call in calls} == {200}
        turns = [word for word in asked_of(stack, 0) if word in ("many", "few")]
        assert turns[:4].count("few") == 2

    def test_a_full_queue_says_when_to_come_back(
        self, make_stack: MakeStack, callers_of: CallersOf
    ) -> None:
        stack = make_stack(queue=QueueSettings(size=2, wait=120))
        callers = callers_of(stack)
        say(stack, FULL)
        waiting = [callers.queue("waits") for _ in range(2)]
        for stream in (True, False):
            refused = callers.call("refused", stream=stream).result()
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "overloaded"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "x-queue-ms" not in refused.headers
        say(stack, FREE)
        assert {call.result().status_code for call in waiting} == {200}
        assert "refused" not in asked_of(stack, 0)
        assert "x-queue-ms" not in callers.call("later").result().headers

    def test_who_waits_too_long_is_told(self, make_stack: MakeStack, callers_of: CallersOf) -> None:
        stack = make_stack(queue=QueueSettings(wait=0.3))
        say(stack, FULL)
        late = callers_of(stack).call("late", stream=True).result()
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) >= 1
        assert int(late.headers["x-queue-ms"]) >= 300
        assert metric(stack, 'adapterloop_queue_seconds_count{end="late"}') == 1

    def test_who_leaves_is_out_of_the_queue_and_asks_no_worker(
        self, make_stack: MakeStack, callers_of: CallersOf
    ) -> None:
        stack = make_stack(queue=QueueSettings(wait=120))
        callers = callers_of(stack)
        say(stack, FULL)
        leaving = [begun(stack, "leaves") for _ in range(5)]
        assert wait_for(lambda: metric(stack, "adapterloop_queue") == 5, 30)
        for connection in leaving:
            connection.close()
        assert wait_for(lambda: metric(stack, "adapterloop_queue") == 0, 30)
        stays = callers.queue("stays")
        say(stack, FREE)
        assert stays.result().status_code == 200
        assert "leaves" not in asked_of(stack, 0)
        assert metric(stack, "adapterloop_in_flight") == 0
        assert metric(stack, 'adapterloop_queue_seconds_count{end="left"}') == 5

    def test_one_worker_with_room_is_enough(
        self, make_stack: MakeStack, callers_of: CallersOf
    ) -> None:
        stack = make_stack(workers=2, queue=QueueSettings(wait=120))
        callers = callers_of(stack)
        say(stack, FULL)
        waits = callers.queue("waits")
        stack.workers[1].worker.kv_usage = FREE
        assert waits.result().status_code == 200
        assert "waits" not in asked_of(stack, 0)
        assert "waits" in asked_of(stack, 1)

    def test_a_worker_that_turns_calls_away_is_full(self, make_stack: MakeStack) -> None:
        """It answers at once, so it looks idle; the other one has room."""
        stack = make_stack(workers=2)
        for worker in stack.workers:
            worker.worker.pooling = True
        stack.workers[0].script = Script(fault="full")
        routes = [(CHAT, body_for(CHAT, "base", "x", stream=stream)) for stream in (False, True)]
        routes.append(("/v1/embeddings", {"model": "base", "input": "x"}))
        began = time.monotonic()
        with stack.live.http() as http:
            for _ in range(15):
                for route, body in routes:
                    answer = http.post(route, json=body)
                    assert answer.status_code == 200, answer.text
            seen = stack.workers[0].seen.paths
            # Once after each look at it, of which there is one a second.
            assert 1 <= seen[CHAT] + seen["/v1/embeddings"] <= 6 + time.monotonic() - began
            assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-0"}') == 1
            stack.workers[1].script = Script(fault="full")
            for route, body in routes:
                answer = http.post(route, json=body)
                assert answer.status_code == 429
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"

    def test_a_worker_gets_no_more_than_it_may_queue(
        self, make_stack: MakeStack, callers_of: CallersOf
    ) -> None:
        stack = make_stack(queue=QueueSettings(worker_waiting=2, wait=120))
        worker, callers = stack.workers[0], callers_of(stack)
        worker.worker.batch = 3
        worker.script = Script(first_delay=3)
        first = [callers.call("first") for _ in range(5)]
        assert wait_for(lambda: metric(stack, "adapterloop_worker_full") == 1, 30)
        worker.script = Script(first_delay=0.2)
        worker.seen.max_running = 0
        rest = [callers.call("rest") for _ in range(20)]
        assert {call.result().status_code for call in [*first, *rest]} == {200}
        # Beside what it may queue, as many as may end between one reading and the next.
        assert worker.seen.max_running <= 2 * (3 + 2)


class TestFailing:
    @pytest.mark.parametrize("fault", ["error", "reset", "die", "bad_json"])
    def test_a_failing_worker_is_left_alone_and_comes_back(
        self, make_stack: MakeStack, fault: Any
    ) -> None:
        stack = make_stack(workers=2)
        bad, good = stack.workers
        bad.script = Script(fault=fault)
        before = bad.seen.paths[CHAT]
        statuses: Counter[int] = Counter()
        began = time.monotonic()
        with stack.live.http() as http:
            for n in range(200):
                answer = http.post(CHAT, json=body_for(CHAT, "base", str(n)))
                statuses[answer.status_code] += 1
        tried = bad.seen.paths[CHAT] - before
        if fault == "bad_json":  # what is not understood was not judged: it is never tried again
            assert statuses[200] >= 200 - tried
        else:
            assert statuses == {200: 200}
        assert 1 <= tried <= 6 + tries_of(time.monotonic() - began)
        assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-0"}') == 0
        assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-1"}') == 1
        assert stack.gateway.tail(1000).count("worker stub-0 gets no calls for 1 s") == 1

        bad.script = Script()
        done = bad.seen.finished
        assert wait_for(lambda: stack.callable("base") and bad.seen.finished > done + 20, 120)
        assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-0"}') == 1
        assert good.seen.finished > 190

    def test_streams_that_break_off_count(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=2)
        bad, _ = stack.workers
        bad.script = Script(text="The train leaves at noon. " * 20, fault="die", fault_after=60)
        broken, began = 0, time.monotonic()
        with stack.live.http() as http:
            for n in range(60):
                answer = http.post(CHAT, json=body_for(CHAT, "base", str(n), stream=True))
                broken += read(CHAT, answer.text, stream=True).error is not None
        assert 1 <= broken <= tries_of(time.monotonic() - began)

    def test_what_clients_do_wrong_does_not_count(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=2)
        with stack.live.http() as http:
            for _ in range(10):
                answer = http.post(CHAT, json=body_for(CHAT, "base", "word " * 3000))
                assert answer.status_code == 400
        for worker in stack.workers:
            worker.script = Script(first_delay=5)
        with stack.live.http() as http:
            for _ in range(10):
                with pytest.raises(httpx.ReadTimeout):
                    http.post(CHAT, json=body_for(CHAT, "base", "x"), timeout=leaves_after(0.1))
        assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-0"}') == 1
        assert metric(stack, 'adapterloop_worker_circuit{state="closed",worker="stub-1"}') == 1

    def test_a_brown_out_does_not_get_twice_the_calls(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=3)
        for worker in stack.workers:
            worker.script = Script(fault="error")

        def call() -> None:
            with stack.live.http() as http:
                for n in range(100):
                    http.post(CHAT, json=body_for(CHAT, "base", str(n)))

        before = sum(worker.seen.paths[CHAT] for worker in stack.workers)
        began = time.monotonic()
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tries = sum(worker.seen.paths[CHAT] for worker in stack.workers) - before
        spare = retries.FLOOR * (retries.SPAN_S + time.monotonic() - began)
        assert tries <= 400 * (1 + retries.SHARE) + spare
        assert metric(stack, 'adapterloop_retries_total{outcome="refused"}') > 0
