"""A gateway that stops is taken out of the live ones, once it has no call any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from gateway.errors import StoreUnavailable
from gateway.registry.snapshot import Snapshot
from gateway.serving import keeper
from gateway.serving.keeper import SnapshotKeeper
from gateway.serving.uses import Uses


class Register:
    """The live gateways; a heartbeat takes as long as the test holds it up."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.away = False
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.beats = 0

    def secret(self) -> bytes:
        return b"secret"

    def revision(self) -> int:
        return 1

    def snapshot(self, held: Snapshot | None) -> Snapshot:
        return Snapshot(1, {}, {}, {}, {}, {})

    def heartbeat(
        self, gateway_id: str, revision: int, busy: list[str], used: Mapping[int, float]
    ) -> None:
        self.asked.set()
        self.beats += 1
        assert self.open.wait(5)
        self.live.add(gateway_id)

    def remove_gateway(self, gateway_id: str) -> None:
        if self.away:
            raise StoreUnavailable
        self.live.discard(gateway_id)


class Routing:
    """What of a router the keeper knows."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.hungry = False
        self.uses = Uses()
        self.calls: list[str] = []

    def update(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def busy(self) -> list[str]:
        return self.calls

    def note_calls(self) -> None:
        pass

    def when_hungry(self, tell: Callable[[], None]) -> None:
        pass


@asynccontextmanager
async def running(register: Register, routing: Routing) -> AsyncIterator[SnapshotKeeper]:
    kept = SnapshotKeeper(cast("Any", register), cast("Any", routing), "g1")
    async with asyncio.TaskGroup() as group:
        beats = group.create_task(kept.run())
        assert await asyncio.to_thread(register.asked.wait, 5)
        yield kept
        beats.cancel()


async def seen(register: Register) -> None:
    async with asyncio.timeout(5):
        while not register.live:  # noqa: ASYNC110 (a heartbeat is waited for)
            await asyncio.sleep(0.01)


async def test_a_gateway_that_has_left_is_live_no_more_and_says_nothing_again() -> None:
    register = Register()
    async with running(register, Routing()) as kept:
        await seen(register)
        await kept.leave()
        assert register.live == set()
        kept.wake()
        await asyncio.sleep(0.1)
        assert register.live == set()


async def test_it_leaves_when_its_last_call_has_ended() -> None:
    register, routing = Register(), Routing()
    routing.calls = ["w1 support@1-00000001"]
    async with running(register, routing) as kept:
        await seen(register)
        leaving = asyncio.ensure_future(kept.leave())
        await asyncio.sleep(0.1)
        assert register.live == {"g1"}
        routing.calls = []
        await leaving
        assert register.live == set()


async def test_with_a_call_that_does_not_end_it_stays_as_one_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "LEAVE_S", 0.1)
    register, routing = Register(), Routing()
    routing.calls = ["w1 support@1-00000001"]
    async with running(register, routing) as kept:
        await seen(register)
        await kept.leave()
        assert register.live == {"g1"}
    assert "TimeoutError" in caplog.text


async def test_a_heartbeat_that_is_under_way_does_not_bring_it_back() -> None:
    register = Register()
    register.open.clear()
    async with running(register, Routing()) as kept:
        leaving = asyncio.ensure_future(kept.leave())
        await asyncio.sleep(0.05)
        register.open.set()
        await leaving
        await asyncio.sleep(0.1)
        assert register.live == set()


async def test_a_store_that_is_away_holds_up_no_end(caplog: pytest.LogCaptureFixture) -> None:
    register = Register()
    register.away = True
    async with running(register, Routing()) as kept:
        await seen(register)
        await kept.leave()
    assert "take this gateway for live" in caplog.text


async def test_a_thousand_misses_are_no_thousand_heartbeats() -> None:
    register = Register()
    loop = asyncio.get_running_loop()
    async with running(register, Routing()) as kept:
        await seen(register)
        began, before = loop.time(), register.beats
        for _ in range(200):
            kept.wake()
            await asyncio.sleep(0.001)
        assert 2 <= register.beats - before <= 2 + (loop.time() - began) / keeper._APART


async def test_what_is_told_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_POLL", 60.0)
    register = Register()
    async with running(register, Routing()) as kept:
        await seen(register)
        await asyncio.sleep(keeper._APART)
        register.asked.clear()
        kept.wake()
        assert await asyncio.to_thread(register.asked.wait, 5)
