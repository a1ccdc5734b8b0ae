"""Promotions and rollbacks under load: no call fails, and none gets another version's words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.acceptance.live import wait_for
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .conftest import MakeStack
from .stack import Stack
from .wire import CHAT, body_for, read

STREAMS = 8
SWAPS = 10


@pytest.fixture
def stack(stack: Stack) -> Iterator[Stack]:
    """The shared stack, with its second version promoted again whatever becomes of the test."""
    yield stack
    assert stack.promote("support", 2).status_code == 200


class Load:
    """Keeps streams going until told to stop; collects what came."""

    def __init__(self, stack: Stack) -> None:
        self.over = False
        self.failed: list[str] = []
        self.models: list[str] = []
        self._stack = stack

    async def run(self) -> None:
        headers = {"authorization": f"Bearer {self._stack.live.api_key}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:
            while not self.over:
                await self._one(client)

    async def goes_on(self) -> None:
        """Return when a call has ended that began after now: all but one may have begun before."""
        had = len(self.models) + len(self.failed)
        async with asyncio.timeout(60):
            while len(self.models) + len(self.failed) <= had + STREAMS:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def _one(self, client: httpx.AsyncClient) -> None:
        body = body_for(CHAT, "support", "Who are you?", stream=True)
        answer = await client.post(self._stack.live.root + CHAT, json=body)
        if answer.status_code != 200:
            self.failed.append(answer.text)
            return
        got = read(CHAT, answer.text, stream=True)
        said = re.match(r"I am (support@\d+)-[0-9a-f]{8}\.", got.text)
        if not got.done or got.error or said is None or said[1] != got.model:
            self.failed.append(answer.text)
        else:
            self.models.append(got.model)


async def test_ten_swaps_under_eight_streams(stack: Stack, stub: StubWorker) -> None:
    stub.script = Script(delay=0.01)
    load = Load(stack)
    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(load.run())
        try:
            for at in range(SWAPS):
                await load.goes_on()
                await asyncio.to_thread(swap, stack, at)
            await load.goes_on()
        finally:
            load.over = True
    assert load.failed == []
    assert set(load.models) == {"support@1", "support@2"}


def swap(stack: Stack, at: int) -> None:
    """Promote the two versions in turn; every third time by a rollback."""
    if at % 3 == 2:
        with stack.live.admin() as admin:
            answer = admin.post("/admin/v1/adapters/support/rollback")
    else:
        answer = stack.promote("support", 1 + at % 2)
    assert answer.status_code in (200, 409), answer.text


async def test_the_gateway_that_was_told_of_a_swap_answers_by_it_at_once(stack: Stack) -> None:
    for number in (1, 2):
        await asyncio.to_thread(stack.promote, "support", number)
        async with stack.live.async_client() as client:
            answer = await client.chat.completions.create(
                model="support", messages=[{"role": "user", "content": "x"}]
            )
        assert answer.model == f"support@{number}"
        assert f"support@{number}-" in (answer.choices[0].message.content or "")


async def test_a_version_is_proven_beside_running_calls(make_stack: MakeStack) -> None:
    stack = await asyncio.to_thread(make_stack)
    stub = stack.workers[0]
    stub.worker.fragile = True
    await asyncio.to_thread(stack.publish, "support", stack.source("one", seed=1))
    assert await asyncio.to_thread(stack.routable, "support")
    stub.script = Script(delay=0.02)
    load = Load(stack)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load.run())
        await asyncio.sleep(0.5)
        try:
            await asyncio.to_thread(stack.publish, "support", stack.source("two", seed=2))
            both = {"support@1", "support@2"}
            await asyncio.to_thread(wait_for, lambda: set(load.models) >= both, 60)
        finally:
            load.over = True
    assert load.failed == []
    assert set(load.models) == {"support@1", "support@2"}
