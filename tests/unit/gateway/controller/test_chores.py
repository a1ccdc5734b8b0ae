"""What the leader does now and then beside reconciling."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.controller.loops import Chore, Controller

from .memory import MemoryStore, until


def controller(store: MemoryStore, *chores: Chore) -> Controller:
    return Controller(
        store, lambda _spec: None, [], holder="me", max_cpu_loras=4, step_s=0.01, chores=chores
    )


async def test_a_chore_is_done_as_soon_as_this_one_leads(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.holder = "another"
    done: list[int] = []
    async with asyncio.TaskGroup() as group:
        rare = Chore("rare", 600.0, lambda: done.append(1))
        task = group.create_task(controller(store, rare).run())
        await asyncio.sleep(0.1)
        assert done == []
        store.holder = None
        await until(lambda: done == [1])  # not ten minutes later
        task.cancel()


async def test_a_chore_that_fails_comes_again_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise ValueError("no luck\nand more")

    others: list[int] = []
    async with asyncio.TaskGroup() as group:
        chores = (Chore("luck", 0.01, work), Chore("other", 0.01, lambda: others.append(1)))
        with caplog.at_level(logging.ERROR):
            task = group.create_task(controller(MemoryStore(), *chores).run())
            await until(lambda: len(tries) > 3 and len(others) > 3)
            task.cancel()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["luck fails, and is tried again: ValueError: no luck"]
