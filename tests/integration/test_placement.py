"""More adapters than the workers have room for, in real processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway.settings import Timeouts
from tests.acceptance.live import wait_for

from .conftest import MakeStack
from .stack import Stack
from .wire import CHAT, body_for

ALIASES = ("a", "b", "c", "d", "e")
ROOM = 2
PATIENT = Timeouts(worker_wait=60)
"""Until another adapter has left, and this one is loaded and proven, however slow the machine."""


def call(stack: Stack, alias: str) -> httpx.Response:
    with stack.live.http() as http:
        return http.post(CHAT, json=body_for(CHAT, f"{alias}@1", "Who are you?"))


def resident(stack: Stack) -> set[str]:
    return {name[0] for worker in stack.workers for name in list(worker.worker.adapters)}


def test_every_adapter_answers_and_the_last_called_stay(make_stack: MakeStack) -> None:
    stack = make_stack(max_cpu_loras=ROOM, timeouts=PATIENT)
    worker = stack.workers[0].worker
    for seed, alias in enumerate(ALIASES):
        stack.publish(alias, stack.source(alias, seed=seed), promote=False)
    for alias in (*ALIASES, *ALIASES):
        answer = call(stack, alias)
        assert (answer.status_code, f"I am {alias}@1-" in answer.text) == (200, True), answer.text
        assert len(worker.adapters) <= ROOM
    assert resident(stack) == {"d", "e"}
    loads = len(stack.workers[0].seen.loads)
    for alias in ("d", "e"):
        assert call(stack, alias).status_code == 200
    assert len(stack.workers[0].seen.loads) == loads, "what is there is not loaded again"

    with stack.live.admin() as admin:
        path = "/admin/v1/adapters/a/versions/1/pin"
        admin.put(path, json={"replicas": 1}).raise_for_status()
        assert wait_for(lambda: "a" in resident(stack), 60), stack.controller.tail()
    stack.controller.stop()  # another one knows what was called
    stack.controller.start()
    for alias in ("b", "c", "d"):
        assert call(stack, alias).status_code == 200, stack.controller.tail()
    assert resident(stack) == {"a", "d"}


def test_many_calls_at_once_for_more_than_there_is_room_for(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2, max_cpu_loras=ROOM, timeouts=PATIENT)
    for seed, alias in enumerate(ALIASES):
        stack.publish(alias, stack.source(alias, seed=seed), promote=False)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda at: call(stack, ALIASES[at % 5]), range(60)))
    assert [a.text for a in answers if a.status_code != 200] == []
    assert all(len(worker.worker.adapters) <= ROOM for worker in stack.workers)


@pytest.mark.parametrize("words", [600, 6])
def test_prompts_that_begin_alike_share_one_workers_cache(
    make_stack: MakeStack, words: int
) -> None:
    """Where nobody says who calls: long beginnings meet again, short ones go anywhere."""
    stack = make_stack(workers=2)
    before = [len(stub.seen.requests) for stub in stack.workers]
    with stack.live.http() as http:
        for at in range(24):
            body = body_for(CHAT, "base", f"{'word ' * words} And what of {at}?")
            assert http.post(CHAT, json=body).status_code == 200
    more = [len(w.seen.requests) - had for w, had in zip(stack.workers, before, strict=True)]
    assert sum(more) == 24
    assert (min(more) == 0) == (words == 600)
