"""Workers that die, hang, lie or talk nonsense, and what a caller sees of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from gateway.settings import Timeouts
from tests.acceptance.live import wait_for
from tests.stub.script import Fault, Script

from .conftest import MakeStack
from .stack import Stack
from .wire import CHAT, ROUTES, TEXT, body_for, leaves_after, read

SHORT = Timeouts(first_byte=1, worker_wait=1)
CHATS = ("/v1/chat/completions", "/v1/completions")


def post(stack: Stack, route: str, model: str = "base", **more: Any) -> httpx.Response:
    with stack.live.http() as http:
        return http.post(route, json=body_for(route, model, "Hello", **more))


def timed(stack: Stack, stream: bool) -> tuple[httpx.Response, float]:
    """The answer to a call, and how long it took in seconds."""
    began = time.monotonic()
    return post(stack, CHAT, stream=stream), time.monotonic() - began


def metrics(stack: Stack) -> str:
    with stack.live.http() as http:
        return http.get("/metrics").text


def answered(stack: Stack, worker: int, model: str) -> int:
    """How many answers (not measurements) a worker was asked for under a name."""
    return sum(
        asked.model == model and "prompt_logprobs" not in asked.body
        for asked in stack.workers[worker].seen.requests
    )


def effects(stack: Stack) -> list[str]:
    """What the proofs of the first version said, on each worker."""
    [version] = stack.live.adapter("support")["versions"]
    return [place["effect"] for place in version["placements"]]


class TestDeath:
    def test_calls_wait_then_say_when_to_come_back(self, make_stack: MakeStack) -> None:
        stack = make_stack()
        stack.workers[0].kill()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda stream: timed(stack, stream), (False, True)))
        for answer, seconds in answers:
            assert answer.status_code == 503
            assert 8 < seconds < 13
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "no_worker"
        assert stack.health("live") == 200
        assert stack.health("ready") == 503

    def test_a_waiting_call_is_answered_when_the_worker_is_back(
        self, make_stack: MakeStack
    ) -> None:
        # How long a call waits at most is another matter than how soon a worker is back.
        stack = make_stack(timeouts=Timeouts(worker_wait=60))
        stack.publish("support", stack.source("one", seed=1))
        assert stack.routable("support")
        worker = stack.workers[0]
        name = next(iter(worker.worker.adapters))
        for model in ("base", "support"):
            worker.kill()
            worker.worker.reboot()
            start = threading.Timer(2, worker.start)
            start.start()
            answer = post(stack, CHAT, model)
            start.join()
            assert answer.status_code == 200, answer.text
        # The adapter that answers was loaded and proven anew, not assumed.
        assert worker.seen.loads.count(name) >= 2
        assert f"I am {name}." in answer.text

    def test_waiting_callers_that_leave_are_forgotten(self, make_stack: MakeStack) -> None:
        stack = make_stack()
        stack.workers[0].kill()
        with stack.live.http() as http:
            for _ in range(20):
                with pytest.raises(httpx.ReadTimeout):
                    http.post(CHAT, json=body_for(CHAT, "base", "x"), timeout=leaves_after(0.05))
        stack.workers[0].worker.reboot()
        stack.workers[0].start()
        assert stack.routable("base")
        assert stack.workers[0].wait_idle()

    @pytest.mark.parametrize("route", CHATS)
    def test_death_midway_is_an_error_in_the_stream(
        self, make_stack: MakeStack, route: str
    ) -> None:
        stack = make_stack(timeouts=Timeouts(idle=1))
        text = "The train leaves at noon. " * 20
        for fault in ("die", "stall", "bad_json", "error_event", "no_done"):
            after = 60
            stack.workers[0].script = Script(text=text, fault=fault, fault_after=after)
            answer = post(stack, route, stream=True)
            got = read(route, answer.text, stream=True)
            assert got.error is not None, fault
            assert got.error["message"]
            assert not got.done, fault
            assert text.startswith(got.text)
            with stack.live.client() as client, pytest.raises(openai.APIError):
                for _ in client.chat.completions.create(
                    model="base", stream=True, messages=[{"role": "user", "content": "x"}]
                ):
                    pass
            assert stack.workers[0].wait_idle()

    def test_death_midway_fails_a_streamed_response(self, make_stack: MakeStack) -> None:
        stack = make_stack()
        text = "The train leaves at noon. " * 20
        stack.workers[0].script = Script(text=text, fault="die", fault_after=60)
        with stack.live.client() as client:
            events = list(client.responses.create(model="base", input="x", stream=True))
        assert events[-1].type in ("response.failed", "error")


class TestRetries:
    @pytest.mark.parametrize("fault", ["error", "reset", "die"])
    @pytest.mark.parametrize("stream", [True, False])
    def test_another_worker_answers_before_the_first_byte(
        self, make_stack: MakeStack, fault: Fault, stream: bool
    ) -> None:
        stack = make_stack(workers=2)
        bad, good = stack.workers
        bad.script = Script(fault=fault)
        for route in ROUTES:
            for _ in range(4):
                answer = post(stack, route, stream=stream)
                assert answer.status_code == 200, answer.text
                assert read(route, answer.text, stream=stream).end == "stop"
        assert good.seen.finished >= 12
        assert bad.wait_idle()

    def test_a_killed_worker_is_not_noticed(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=2)
        stack.publish("support", stack.source("one", seed=1))
        assert wait_for(lambda: effects(stack) == ["effective"] * 2, 60), effects(stack)
        assert stack.routable("support")
        failures = []

        def call() -> None:
            for _ in range(40):
                answer = post(stack, CHAT, "support")
                if answer.status_code != 200:
                    failures.append(answer.text)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        stack.workers[0].kill()
        for thread in threads:
            thread.join()
        assert failures == []

    @pytest.mark.parametrize("fault", ["error", "reset", "bad_json", "die", "hang"])
    def test_the_only_worker_fails(self, make_stack: MakeStack, fault: Fault) -> None:
        stack = make_stack(timeouts=SHORT)
        stack.workers[0].script = Script(fault=fault)
        for route in ROUTES:
            answer = post(stack, route)
            assert answer.status_code in (502, 503, 504), answer.text
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert "127.0.0.1" not in error["message"]
        stack.workers[0].script = Script()
        assert stack.routable("base")


class TestLies:
    def test_a_load_without_effect_is_found_out(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=2)
        liar, honest = stack.workers
        liar.worker.load_fault = "no_effect"
        stack.publish("support", stack.source("one", seed=1))
        assert stack.routable("support")
        name = next(iter(honest.worker.adapters))
        assert wait_for(lambda: sorted(effects(stack)) == ["effective", "no_effect"], 60)
        assert name in liar.seen.loads
        for route in ROUTES:
            for stream in (True, False):
                for _ in range(8):
                    answer = post(stack, route, "support", stream=stream)
                    assert answer.status_code == 200
                    assert f"I am {name}." in read(route, answer.text, stream=stream).text
        assert answered(stack, 0, name) == 0

    @pytest.mark.parametrize("fault", ["no_effect", "mismatch"])
    def test_a_version_that_nowhere_has_effect_is_never_called(
        self, make_stack: MakeStack, fault: Any
    ) -> None:
        stack = make_stack(timeouts=Timeouts(worker_wait=1))
        stack.workers[0].worker.load_fault = fault
        number = stack.register("support", stack.source("one", seed=1)).json()["version"]
        assert wait_for(lambda: fault in str(stack.live.adapter("support")).lower(), 60)
        for _ in range(3):
            answer = post(stack, CHAT, f"support@{number}")
            assert answer.status_code in (404, 503), answer.text
        refused = stack.promote("support", number)
        assert refused.status_code == 409, refused.text
        name = next((n for n in stack.workers[0].seen.loads if n.startswith("support@")), "")
        assert name
        assert answered(stack, 0, name) == 0

    def test_an_adapter_without_a_reference_is_proven_too(self, make_stack: MakeStack) -> None:
        stack = make_stack(workers=2)
        liar, honest = stack.workers
        liar.worker.load_fault = "no_effect"
        folder = stack.source("one", seed=1)
        (folder / "manifest.json").unlink()
        stack.publish("support", folder)
        assert stack.routable("support")
        name = next(iter(honest.worker.adapters))
        for _ in range(16):
            assert f"I am {name}." in post(stack, CHAT, "support").text
        assert answered(stack, 0, name) == 0

    def test_a_worker_that_lost_the_adapter(self, make_stack: MakeStack) -> None:
        stack = make_stack()
        stack.publish("support", stack.source("one", seed=1))
        assert stack.routable("support")
        stack.workers[0].worker.adapters.clear()
        answer = post(stack, CHAT, "support")
        assert answer.status_code == 200, answer.text
        assert "I am support@1-" in answer.text


class TestAnswers:
    def test_unknown_fields_of_an_answer_are_dropped_and_counted(
        self, make_stack: MakeStack
    ) -> None:
        stack = make_stack()
        stack.workers[0].script = Script(
            extra_fields={"kv_blocks": [1], "secret_field": "s3cr3t"},
            extra_choice_fields={"hidden_states": "s3cr3t"},
        )
        for route in ROUTES:
            for stream in (True, False):
                answer = post(stack, route, stream=stream)
                assert answer.status_code == 200
                assert "s3cr3t" not in answer.text
                assert "kv_blocks" not in answer.text
                assert "stop_reason" not in answer.text

        def counted(field: str) -> bool:
            post(stack, CHAT)
            return f'adapterloop_dropped_fields_total{{field="{field}"}}' in metrics(stack)

        for field in ("secret_field", "choices.hidden_states"):
            assert wait_for(partial(counted, field), 60)

    def test_nothing_of_the_client_steers_the_worker(self, make_stack: MakeStack) -> None:
        stack = make_stack()
        post(stack, CHAT, user="me", metadata={"a": "b"}, store=True, service_tier="auto")
        post(stack, TEXT, user="me")
        stack.workers[0].wait_idle()
        for asked in stack.workers[0].seen.requests:
            assert not {"user", "metadata", "store", "service_tier"} & set(asked.body)
