"""Calls wait for an adapter that nobody holds, and see to it that it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import NoWorker
from gateway.registry.records import in_flight
from gateway.registry.snapshot import Placement, Snapshot, Version, VersionState
from gateway.rendezvous import number, weight
from gateway.serving.router import Router
from gateway.serving.waiting import Standing
from gateway.settings import QueueSettings
from gateway.workers.loader import Loader
from gateway.workers.probe import WorkerWatch
from tests.unit.gateway.mentions import mentions
from tests.unit.gateway.workers.fake import FakeWorker, base_version, fingerprint, version

VERSION = version(1, state=VersionState.CANDIDATE)


class Fleet:
    """Two workers of one slot, a registry that keeps placements, and a router over them."""

    def __init__(self) -> None:
        self.workers = {name: FakeWorker(name) for name in ("w1", "w2")}
        self.placed: dict[tuple[str, int], Placement] = {}
        self.revision = 1
        self.router: Router
        self.watch: WorkerWatch

    def reference(self, version_id: int) -> Mapping[str, Any] | None:
        return fingerprint()

    def adopt_reference(self, version_id: int, made: Mapping[str, Any], worker: str) -> bool:
        return False

    def record_placement(self, placement: Placement) -> None:
        self.placed[placement.worker, placement.version_id] = placement

    def publish(self, left_out: tuple[tuple[str, str], ...] = ()) -> None:
        """Let the router see what was placed, and what every worker was started without."""
        self.revision += 1
        placements: dict[int, tuple[Placement, ...]] = {}
        for placement in self.placed.values():
            before = placements.get(placement.version_id, ())
            placements[placement.version_id] = (*before, placement)
        specs = {n: replace(worker.spec, left_out=left_out) for n, worker in self.workers.items()}
        self.router.update(Snapshot(self.revision, {}, {}, {}, specs, placements))

    def loads(self) -> list[str]:
        return [
            name
            for name, worker in self.workers.items()
            for line in worker.log
            if line.startswith("load")
        ]

    async def call(self, asked: Version = VERSION, seconds: float = 5.0) -> str:
        deadline = asyncio.get_running_loop().time() + seconds
        target = await self.router.begin(asked, "", deadline, {}, Standing(1, "normal"))
        return target.worker.name


@asynccontextmanager
async def serving(fleet: Fleet) -> AsyncIterator[Fleet]:
    fleet.watch = WorkerWatch(lambda spec: fleet.workers[spec.name], interval=0.05)
    async with asyncio.TaskGroup() as group, Loader(fleet.watch, fleet, max_cpu_loras=1) as loader:
        fleet.router = Router(fleet.watch, loader, group, QueueSettings())
        fleet.publish()
        probing = group.create_task(fleet.watch.run())
        await until(lambda: all(seen.healthy for seen in fleet.watch.observed.values()))
        yield fleet
        probing.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (tasks of the code under test change it)
            await asyncio.sleep(0.01)


async def test_many_calls_make_one_load_where_every_gateway_would_make_it() -> None:
    async with serving(Fleet()) as fleet:
        for worker in fleet.workers.values():
            worker.pause = 0.05
        calls = [asyncio.ensure_future(fleet.call()) for _ in range(20)]
        await until(lambda: bool(fleet.placed))
        await asyncio.sleep(0.2)  # the name shows before the placement does
        fleet.publish()
        chosen = set(await asyncio.gather(*calls))
    mixed = number(VERSION.worker_name)
    assert chosen == {max(fleet.workers, key=lambda name: weight(mixed, name))}
    assert len(fleet.loads()) == 1
    assert fleet.router.found == {"loaded": 20}
    assert not fleet.router.hungry


async def test_where_no_slot_is_free_a_call_tells_of_its_need_and_waits() -> None:
    fleet = Fleet()
    for worker in fleet.workers.values():
        worker.loaded["other@1-00000009"] = "/adapters/9"
    async with serving(fleet):
        told: list[None] = []
        fleet.router.when_hungry(lambda: told.append(None))
        waiting = asyncio.ensure_future(fleet.call(seconds=1.0))
        await until(lambda: fleet.router.hungry)
        with fleet.router.uses.telling() as used:
            assert set(used) == {VERSION.id}
        fleet.router.note_calls()  # what goes on waiting is needed more than what was called since
        with fleet.router.uses.telling() as used:
            assert set(used) == {VERSION.id}
        assert told == [None]
        with pytest.raises(NoWorker):
            await waiting
        assert not fleet.router.hungry
    assert fleet.loads() == []
    assert fleet.router.found == {"none": 1}


async def test_a_caller_is_told_why_workers_run_without_a_version() -> None:
    fleet = Fleet()
    for worker in fleet.workers.values():
        worker.loaded["other@1-00000009"] = "/adapters/9"
    async with serving(fleet):
        with pytest.raises(NoWorker, match="is ready: try again shortly"):
            await fleet.call(seconds=0.1)
        fleet.publish(left_out=((VERSION.worker_name, "of another family"),))
        with pytest.raises(NoWorker, match=r"is ready\. .*runs without it: of another family$"):
            await fleet.call(seconds=0.1)


async def test_a_name_that_is_on_its_way_off_is_left_alone() -> None:
    fleet = Fleet()
    for worker in fleet.workers.values():
        worker.loaded[VERSION.worker_name] = VERSION.path
    async with serving(fleet):
        with pytest.raises(NoWorker):
            await fleet.call(seconds=0.2)
    assert fleet.loads() == []


async def test_calls_in_flight_are_told_by_worker_and_count_as_use() -> None:
    async with serving(Fleet()) as fleet:

        async def publish() -> None:
            await until(lambda: bool(fleet.placed))
            fleet.publish()

        deadline = asyncio.get_running_loop().time() + 5
        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for _ in range(2):
                target = await fleet.router.begin(VERSION, "", deadline, {}, Standing(1, "normal"))
        with fleet.router.uses.telling():
            pass
        assert fleet.router.busy() == [in_flight(target.worker.name, VERSION.worker_name)]
        fleet.router.note_calls()
        with fleet.router.uses.telling() as used:
            assert set(used) == {VERSION.id}
        fleet.router.end(target)
        assert fleet.router.busy()
        fleet.router.end(target)
        assert fleet.router.busy() == []
        assert await fleet.call() == target.worker.name
        assert fleet.router.found == {"loaded": 1, "resident": 2}


async def test_the_base_needs_no_place() -> None:
    async with serving(Fleet()) as fleet:
        assert await fleet.call(base_version()) in fleet.workers
        with fleet.router.uses.telling() as used:
            assert used == {}
    assert fleet.router.found == {}


async def test_a_load_that_breaks_costs_nobody_else() -> None:
    fleet = Fleet()

    def broken(placement: Placement) -> None:
        raise ValueError("nobody has thought of this")

    fleet.record_placement = broken  # type: ignore[method-assign]
    async with serving(fleet):
        with pytest.raises(NoWorker):
            await fleet.call(seconds=0.3)
        assert (await fleet.call(base_version())) in fleet.workers


async def test_calls_that_wait_for_room_count_as_use() -> None:
    async with serving(Fleet()) as fleet:
        deadline = asyncio.get_running_loop().time() + 5
        asked = fleet.router.begin(VERSION, "", deadline, {}, Standing(1, "normal"))
        calling = asyncio.ensure_future(asked)
        await until(lambda: bool(fleet.placed))
        fleet.publish()
        fleet.router.end(await calling)
        for worker in fleet.workers.values():
            worker.waiting = 4
            await fleet.watch.look(worker.spec.name)
        waiting = [asyncio.ensure_future(fleet.call(asked)) for asked in (VERSION, base_version())]
        await until(lambda: len(fleet.router.queue) == 2)
        with fleet.router.uses.telling():
            pass
        fleet.router.note_calls()
        with fleet.router.uses.telling() as used:
            assert set(used) == {VERSION.id}
        for call in waiting:
            call.cancel()


async def test_workers_that_are_gone_leave_nothing_behind() -> None:
    """Pods come and go for months, each under a name of its own."""
    fleet = Fleet()
    async with serving(fleet):
        for name in (*(f"gpu@10.0.0.{number}" for number in range(10)), "last"):
            fleet.workers = {name: FakeWorker(name)}
            fleet.placed.clear()
            fleet.publish()
            deadline = asyncio.get_running_loop().time() + 5
            calling = asyncio.ensure_future(
                fleet.router.begin(VERSION, "", deadline, {}, Standing(1, "normal"))
            )
            await until(lambda: bool(fleet.placed))
            fleet.publish()
            fleet.router.end(await calling, answered=False)
            assert mentions(fleet.router, name)
        assert mentions(fleet.router, "gpu@") == []
