"""Who gets a call while workers are full, or fail."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gateway.errors import NoWorker, Saturated
from gateway.registry.snapshot import Snapshot
from gateway.serving.breaker import FIRST_PAUSE_S, IN_A_ROW, State
from gateway.serving.router import Router, Target
from gateway.serving.waiting import Standing
from gateway.settings import QueueSettings
from gateway.workers.probe import Observed, WorkerWatch
from tests.unit.gateway.workers.fake import FakeWorker, base_version

BASE = base_version()


class Fleet:
    """A router over workers in memory, which are probed when the test says so."""

    def __init__(self, group: asyncio.TaskGroup, count: int, **settings: Any) -> None:
        self.workers = {name: FakeWorker(name) for name in (f"w{n}" for n in range(count))}
        ticks = itertools.count()
        self.watch = WorkerWatch(lambda spec: self.workers[spec.name])
        loader: Any = None  # the base needs no load
        self.router = Router(self.watch, loader, group, QueueSettings(**settings))
        specs = {name: worker.spec for name, worker in self.workers.items()}
        self.router.update(Snapshot(1, {}, {}, {}, specs))
        for prober in self.watch._probers.values():
            prober._clock = lambda: float(next(ticks))

    async def probe(self) -> None:
        for name in self.workers:
            await self.watch.look(name)

    async def call(
        self,
        session: str = "",
        wait: float = 0.0,
        avoid: Mapping[str, Observed | None] | None = None,
        **standing: Any,
    ) -> Target:
        deadline = asyncio.get_running_loop().time() + wait
        stands = Standing(**{"key": 1, "priority": "normal"} | standing)
        return await self.router.begin(BASE, session, deadline, avoid or {}, stands)

    def wait(self, **standing: Any) -> asyncio.Task[Target]:
        return asyncio.create_task(self.call(**standing))


@pytest.fixture
async def group() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


async def settled() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_full_is_not_the_same_as_not_ready(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 1, wait=0.05)
    with pytest.raises(NoWorker):
        await fleet.call()
    fleet.workers["w0"].waiting = 4
    await fleet.probe()
    with pytest.raises(Saturated):
        await fleet.call()


async def test_the_only_worker_is_asked_again_once_it_was_looked_at(
    group: asyncio.TaskGroup,
) -> None:
    """It failed a call and is well: nothing has changed, yet something newer is known."""
    fleet = Fleet(group, 1)
    await fleet.probe()
    failed = {"w0": fleet.router.observed("w0")}
    again = asyncio.create_task(fleet.call(wait=5.0, avoid=failed))
    await settled()
    assert not again.done()
    await fleet.probe()
    await settled()
    assert again.done()
    never = asyncio.create_task(fleet.call(wait=0.05, avoid={"w0": None}))
    await settled()
    await fleet.probe()
    with pytest.raises(NoWorker):
        await never


async def test_a_call_that_avoids_a_worker_for_good_holds_up_none_that_does_no_longer(
    group: asyncio.TaskGroup,
) -> None:
    fleet = Fleet(group, 2, per_worker=1)
    await fleet.probe()
    places = {target.worker.name: target for target in [await fleet.call(), await fleet.call()]}
    failed = {"w0": fleet.router.observed("w0")}
    await fleet.probe()
    never = asyncio.create_task(fleet.call(avoid={"w0": None}))
    again = asyncio.create_task(fleet.call(avoid=failed))
    await settled()
    fleet.router.end(places["w0"], answered=True)
    assert (await again).worker.name == "w0"
    assert not never.done()
    fleet.router.end(places["w1"], answered=True)
    assert (await never).worker.name == "w1"


async def test_the_end_of_a_call_lets_the_next_one_go(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 2, per_worker=1)
    await fleet.probe()
    targets = [await fleet.call(), await fleet.call()]
    assert {target.worker.name for target in targets} == {"w0", "w1"}
    low, high = fleet.wait(priority="low"), fleet.wait(priority="high", key=2)
    await settled()
    fleet.router.end(targets[0], answered=True)
    assert await high == targets[0]
    assert not low.done()
    fleet.router.end(targets[1], answered=True)
    assert await low == targets[1]


async def test_a_probe_lets_calls_go_that_wait(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 1)
    fleet.workers["w0"].kv_usage = 0.99
    await fleet.probe()
    waits = fleet.wait()
    await settled()
    assert not waits.done()
    fleet.workers["w0"].kv_usage = 0.5
    await fleet.probe()
    assert (await waits).worker.name == "w0"


async def test_who_leaves_the_queue_holds_nothing(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 1, per_worker=1)
    await fleet.probe()
    target = await fleet.call()
    gone = fleet.wait()
    await settled()
    gone.cancel()
    await settled()
    assert len(fleet.router.queue) == 0
    again = fleet.wait()
    await settled()
    fleet.router.end(target)
    again.cancel()  # in the moment in which its place was found
    await settled()
    assert fleet.router.per_worker["w0"] == 0
    assert (await fleet.call()).worker.name == "w0"


async def test_a_burst_is_shared_evenly_though_one_worker_was_read_in_the_last(
    group: asyncio.TaskGroup,
) -> None:
    fleet = Fleet(group, 2)
    await fleet.watch.look("w0")
    burst = [await fleet.call(session=str(n)) for n in range(16)]
    fleet.workers["w0"].running = len(burst)
    await fleet.probe()
    for target in burst:
        fleet.router.end(target, answered=True)
    workers = Counter([(await fleet.call(session=str(n))).worker.name for n in range(16)])
    assert min(workers["w0"], workers["w1"]) >= 7


async def test_sessions_find_their_worker_again_on_a_busy_fleet(group: asyncio.TaskGroup) -> None:
    """Calls end in any order, so workers are never equally busy; the prefix caches matter more."""
    fleet, rng = Fleet(group, 4), random.Random(1)
    await fleet.probe()
    before: dict[str, str] = {}
    under_way: list[Target] = []
    again, ahead = 0, 0
    for _ in range(4000):
        session = str(rng.randrange(200))
        target = await fleet.call(session=session)
        again += before.get(session) == target.worker.name
        before[session] = target.worker.name
        under_way.append(target)
        if len(under_way) > 4 * 40:
            done = under_way.pop(rng.randrange(len(under_way)))
            fleet.router.end(done, answered=True)
        ahead = max(ahead, max(fleet.router.per_worker.values()) - 40)
    assert again > 0.7 * 4000
    assert ahead <= 10


async def test_a_failing_worker_gets_no_calls_until_it_is_tried(
    group: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.serving.router.time.monotonic", lambda: now)
    fleet = Fleet(group, 2)
    await fleet.probe()

    async def asked(calls: int) -> int:
        bad = 0
        for n in range(calls):
            target = await fleet.call(session=str(n))
            failed = target.worker.name == "w0"
            fleet.router.end(target, answered=not failed)
            bad += failed
        return bad

    assert await asked(200) == IN_A_ROW
    assert fleet.router.circuits() == {"w0": State.OPEN, "w1": State.CLOSED}
    now += FIRST_PAUSE_S
    assert await asked(200) == 1
    fleet.workers["w0"].restart()
    await fleet.probe()
    assert fleet.router.circuits() == {"w0": State.CLOSED, "w1": State.CLOSED}
    assert await asked(200) == IN_A_ROW


async def test_calls_without_a_verdict_do_not_count(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 1)
    await fleet.probe()
    for _ in range(50):
        fleet.router.end(await fleet.call())
    assert fleet.router.circuits() == {"w0": State.CLOSED}


async def test_the_only_worker_is_asked_even_if_it_fails(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 1)
    await fleet.probe()
    for _ in range(50):
        fleet.router.end(await fleet.call(), answered=False)
    assert fleet.router.circuits() == {"w0": State.OPEN}


async def test_a_call_that_nobody_waits_for_takes_no_place(group: asyncio.TaskGroup) -> None:
    fleet = Fleet(group, 2, per_worker=1)
    await fleet.probe()
    router = fleet.router
    spare = [router.spare(BASE), router.spare(BASE, {"w0"}), router.spare(BASE, {"w0", "w1"})]
    assert spare[0] is not None
    assert spare[1] is not None
    assert (spare[1].worker.name, spare[2]) == ("w1", None)
    assert len(router.busy()) == len({target for target in spare[:2] if target})
    targets = [await fleet.call(), await fleet.call()]  # all places are free still
    assert router.spare(BASE) is None
    told: list[None] = []
    router.when_full = lambda: told.append(None)
    waits = fleet.wait()
    await settled()
    assert told == [None]
    router.end(targets[0], answered=True)
    router.end(await waits, answered=True)
    router.end(targets[1], answered=True)
    for target in spare[:2]:
        assert target is not None
        router.spared(target)
    assert router.busy() == []
    assert not router.retries.made
    fleet.workers["w0"].waiting = 1  # not full, but it has something to do
    await fleet.probe()
    found = router.spare(BASE)
    assert found is not None
    assert found.worker.name == "w1"
    for _ in range(IN_A_ROW):
        router._breakers.failed("w1", 0.0)
    assert router.spare(BASE) is None


async def test_a_full_queue_makes_room_for_other_keys_and_higher_priorities(
    group: asyncio.TaskGroup,
) -> None:
    fleet = Fleet(group, 1, per_worker=1, size=3)
    await fleet.probe()
    target = await fleet.call()
    batch = [fleet.wait() for _ in range(3)]
    await settled()
    with pytest.raises(Saturated):
        await fleet.call()
    other = fleet.wait(key=2)
    with pytest.raises(Saturated, match="others"):
        await batch[2]
    urgent = fleet.wait(priority="high")
    with pytest.raises(Saturated, match="others"):
        await batch[1]
    with pytest.raises(Saturated):
        await fleet.call(priority="low", key=3)
    assert len(fleet.router.queue) == 3
    for waiting in (urgent, batch[0], other):
        fleet.router.end(target)
        target = await waiting
    assert fleet.router.per_worker["w0"] == 1
