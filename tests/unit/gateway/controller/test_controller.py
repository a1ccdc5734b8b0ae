"""The controller with fake workers and a registry in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.controller.loops import Controller
from gateway.controller.reconcile import Reconciler
from gateway.registry.records import GatewayBeat, in_flight
from gateway.registry.snapshot import (
    Effect,
    VersionState,
)
from gateway.settings import PlacementSettings
from gateway.workers.loader import Loader
from gateway.workers.probe import WorkerWatch
from tests.unit.gateway.mentions import mentions
from tests.unit.gateway.workers.fake import FakeWorker, fingerprint, version

from .memory import MemoryStore, until


@asynccontextmanager
async def controlling(
    store: MemoryStore, *workers: FakeWorker, room: int = 4
) -> AsyncIterator[None]:
    known = {worker.spec.name: worker for worker in workers}
    controller = Controller(
        store,
        lambda spec: known[spec.name],
        [worker.spec for worker in workers],
        holder="me",
        max_cpu_loras=room,
        step_s=0.02,
        probe_s=0.02,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(controller.run())
        yield
        task.cancel()


def effect(store: MemoryStore, worker: str = "w1", version_id: int = 1) -> Effect | None:
    placement = store.placed.get((worker, version_id))
    return placement.effect if placement else None


async def test_a_registered_version_becomes_a_candidate_everywhere() -> None:
    store, workers = MemoryStore(version(1)), [FakeWorker("w1"), FakeWorker("w2")]
    async with controlling(store, *workers):
        await until(lambda: len(store.placed) == 2)
        await until(lambda: store.versions[1].state is VersionState.CANDIDATE)
    states = [state for _, state, _ in store.reasons]
    assert states[0] is VersionState.VERIFYING
    assert states[-1] is VersionState.CANDIDATE
    assert store.workers == {"w1": True, "w2": True}
    assert store.holder is None


async def test_a_version_that_has_no_effect_is_rejected_and_taken_off() -> None:
    store, worker = MemoryStore(version(1)), FakeWorker()
    worker.delta = 0.0
    async with controlling(store, worker):
        await until(lambda: store.versions[1].state is VersionState.REJECTED)
        store.retire(1)
        await until(lambda: not worker.loaded)
    assert "base model answers" in store.reasons[-1][2]
    assert not any(p.routable for p in store.placed.values())


async def test_a_refused_load_is_the_reason_of_the_rejection() -> None:
    store, worker = MemoryStore(version(1)), FakeWorker()
    worker.refuse = "rank 64 is too large"
    async with controlling(store, worker):
        await until(lambda: store.versions[1].state is VersionState.REJECTED)
    assert "rank 64 is too large" in store.reasons[-1][2]


async def test_a_fault_that_passes_rejects_nothing() -> None:
    store, worker = MemoryStore(version(1)), FakeWorker()
    worker.delta = 0.0
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.NO_EFFECT)
        worker.delta = 1.0
        await until(lambda: store.versions[1].state is VersionState.CANDIDATE)


async def test_a_restarted_worker_is_proven_again() -> None:
    store, worker = MemoryStore(version(1, state=VersionState.SERVING)), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        worker.restart()
        await until(lambda: ("w1", 1) in store.placed and store.placed["w1", 1].boot == "101.00")
    assert worker.log.count(f"load {version(1).worker_name}") == 2


async def test_a_worker_that_slept_is_proven_again() -> None:
    """It is the same boot and lists the same names, but its memory was given away."""
    one = version(1, state=VersionState.SERVING)
    store, worker = MemoryStore(one), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        worker.asleep = True
        await until(lambda: not store.placed)
        assert worker.loaded
        worker.log.clear()
        worker.deltas[one.worker_name] = 0.0
        worker.asleep = False
        await until(lambda: effect(store) is Effect.NO_EFFECT)
        worker.deltas.clear()
        await until(lambda: effect(store) is Effect.EFFECTIVE)
    assert worker.log.index("measure base@0") < worker.log.index(f"unload {one.worker_name}")


async def test_a_worker_that_does_not_tell_its_boot_is_proven_again() -> None:
    store, worker = MemoryStore(version(1, state=VersionState.SERVING)), FakeWorker()
    worker.boot = None
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        first = store.placed["w1", 1].boot
        worker.restart()
        await until(lambda: ("w1", 1) in store.placed and store.placed["w1", 1].boot != first)
        await until(lambda: effect(store) is Effect.EFFECTIVE)


async def test_a_gateway_that_nobody_could_hear_is_waited_for() -> None:
    """The database was away for all: the controller is back first, and knows of an old sign."""
    store, worker = MemoryStore(version(1, state=VersionState.SERVING)), FakeWorker()
    store.beats = (GatewayBeat("g", "host", 0, frozenset(), store.now - 60),)
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        store.retire(1)
        await asyncio.sleep(0.3)
        assert worker.loaded
        store.beats = (replace(store.beats[0], revision=store.count, heartbeat_at=store.now),)
        await until(lambda: not worker.loaded)


async def test_a_retired_version_waits_for_busy_gateways() -> None:
    one = version(1, state=VersionState.SERVING)
    store, worker = MemoryStore(one), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        beat = GatewayBeat("g", "host", 0, frozenset(), 0.0)
        store.beats = (beat,)
        store.retire(1)
        await asyncio.sleep(0.3)
        assert worker.loaded
        store.beats = (
            replace(beat, revision=store.count, busy=frozenset({in_flight("w1", one.worker_name)})),
        )
        await asyncio.sleep(0.3)
        assert worker.loaded
        store.beats = (replace(beat, revision=store.count),)
        await until(lambda: not worker.loaded)
        await until(lambda: not store.placed)


async def test_what_does_not_fit_makes_room_in_two_phases() -> None:
    old, new = version(1, state=VersionState.CANDIDATE), version(2)
    store, worker = MemoryStore(old), FakeWorker()
    store.references[2] = fingerprint()
    async with controlling(store, worker, room=1):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        beat = GatewayBeat("g", "host", store.count, frozenset(), 0.0)
        store.beats = (beat,)
        store.change(new)
        await until(lambda: ("w1", 1) not in store.placed)
        await asyncio.sleep(0.2)
        assert old.worker_name in worker.loaded
        store.beats = (replace(beat, revision=store.count),)
        await until(lambda: effect(store, version_id=2) is Effect.EFFECTIVE)
    assert set(worker.loaded) == {new.worker_name}


async def test_a_call_makes_the_least_recently_used_give_way() -> None:
    versions = [version(i, state=VersionState.CANDIDATE) for i in range(1, 5)]
    store, workers = MemoryStore(*versions), [FakeWorker("w1"), FakeWorker("w2")]
    async with controlling(store, *workers, room=1):
        await until(lambda: {v for _, v in store.placed} == {3, 4})
        store.now += 100
        store.used_at[1] = store.now - 2
        await until(lambda: {v for _, v in store.placed} == {1, 4})
        store.used_at |= {2: store.now - 1, 4: store.now + 1}
        await asyncio.sleep(0.2)
        assert {v for _, v in store.placed} == {1, 4}, "the one just loaded is not taken away"
        store.now += 100
        await until(lambda: {v for _, v in store.placed} == {2, 4})
    assert all(len(worker.loaded) == 1 for worker in workers)


async def test_a_version_with_calls_in_flight_stays_until_they_end() -> None:
    one, two = (version(i, state=VersionState.CANDIDATE) for i in (1, 2))
    store, worker = MemoryStore(one, two), FakeWorker()
    async with controlling(store, worker, room=1):
        await until(lambda: effect(store, version_id=2) is Effect.EFFECTIVE)
        busy = GatewayBeat("g", "", 10**6, frozenset({in_flight("w1", two.worker_name)}), 0.0)
        store.beats = (busy,)
        store.now += 100
        store.used_at[1] = store.now
        await until(lambda: ("w1", 2) not in store.placed)
        await asyncio.sleep(0.2)
        assert set(worker.loaded) == {two.worker_name}
        store.beats = (replace(busy, busy=frozenset({in_flight("w2", two.worker_name)})),)
        await until(lambda: effect(store) is Effect.EFFECTIVE)
    assert set(worker.loaded) == {one.worker_name}


async def test_a_bad_version_is_tried_on_every_worker_before_it_is_rejected() -> None:
    good = [version(i, state=VersionState.CANDIDATE) for i in (1, 2)]
    bad = version(3)
    store, workers = MemoryStore(*good, bad), [FakeWorker("w1"), FakeWorker("w2")]
    for worker in workers:
        worker.deltas[bad.worker_name] = 0.0
    async with controlling(store, *workers, room=1):
        await until(lambda: store.versions[3].state is VersionState.REJECTED)
    assert all(f"load {bad.worker_name}" in worker.log for worker in workers)


async def test_a_proof_is_renewed_in_place() -> None:
    store, worker = MemoryStore(version(1, state=VersionState.SERVING)), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        proven = store.now
        store.now += 3601
        await until(lambda: store.checked_at["w1", 1] > proven)
    assert f"unload {version(1).worker_name}" not in worker.log
    assert worker.log.count(f"measure {version(1).worker_name}") == 6, "two rounds of three"


async def test_a_worker_that_has_come_to_answer_wrongly_is_fenced_then_loads_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = version(1, state=VersionState.SERVING)
    store, worker = MemoryStore(one), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        busy = GatewayBeat("g", "", 10**6, frozenset({in_flight("w1", one.worker_name)}), 0.0)
        store.beats = (busy,)
        worker.deltas[one.worker_name] = 0.0
        store.now += 3601
        await until(lambda: effect(store) is Effect.NO_EFFECT)
        await asyncio.sleep(1.5)
        assert worker.loaded, "a call that began before is still in flight"
        worker.deltas.clear()
        store.beats = (replace(busy, busy=frozenset()),)
        await until(lambda: effect(store) is Effect.EFFECTIVE)
    assert f"unload {one.worker_name}" in worker.log
    assert any("never gets calls" in r.message for r in caplog.records if r.levelname == "ERROR")


async def test_a_failing_worker_does_not_stop_the_others() -> None:
    store = MemoryStore(version(1), version(2))
    bad, good = FakeWorker("bad"), FakeWorker("good")

    async def explode(name: str, path: str) -> None:
        raise RuntimeError("a bug")

    bad.load = explode  # type: ignore[method-assign]
    async with controlling(store, bad, good):
        await until(lambda: {("good", 1), ("good", 2)} <= set(store.placed))
        await until(lambda: store.versions[2].state is VersionState.CANDIDATE)
        bad.load = good.load  # type: ignore[method-assign]


async def test_a_slow_worker_does_not_stop_the_others() -> None:
    store = MemoryStore(version(1))
    slow, good = FakeWorker("slow"), FakeWorker("good")
    slow.pause = 60
    async with controlling(store, slow, good):
        await until(lambda: store.versions[1].state is VersionState.CANDIDATE)


async def test_a_store_that_is_down_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.controller.loops")
    store, worker = MemoryStore(version(1)), FakeWorker()
    async with controlling(store, worker):
        await until(lambda: effect(store) is Effect.EFFECTIVE)
        store.down = True
        await until(lambda: "goes on trying" in caplog.text)
        await asyncio.sleep(0.3)
        store.down = False
        worker.restart()
        await until(lambda: ("w1", 1) in store.placed and store.placed["w1", 1].boot == "101.00")
    lines = [r.message for r in caplog.records if r.name == "gateway.controller.loops"]
    assert len([line for line in lines if "goes on trying" in line]) == 1
    assert len([line for line in lines if "works again" in line]) == 1


async def test_who_does_not_lead_touches_nothing() -> None:
    store, worker = MemoryStore(version(1)), FakeWorker()
    store.holder = "another"
    async with controlling(store, worker):
        await until(lambda: bool(store.specs))
        await asyncio.sleep(0.3)
    assert worker.log == []
    assert store.specs == {"w1": worker.spec}


async def test_who_has_lost_the_lease_unloads_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    store, worker, leads = MemoryStore(), FakeWorker(), [True]
    store.specs = {"w1": worker.spec}
    worker.loaded = {version(n).worker_name: f"/adapters/{n}" for n in (1, 2)}
    unload = worker.unload

    async def last(name: str) -> None:
        leads[0] = False  # it took so long
        await unload(name)

    monkeypatch.setattr(worker, "unload", last)
    watch = WorkerWatch(lambda spec: worker)
    async with asyncio.TaskGroup() as group, Loader(watch, store, max_cpu_loras=4) as loader:
        reconciler = Reconciler(
            store,
            watch,
            loader,
            max_cpu_loras=4,
            settings=PlacementSettings(),
            leading=lambda: leads[0],
        )
        await reconciler.step(group)
        await watch.look("w1")
        await reconciler.step(group)
    assert worker.log == [f"unload {version(1).worker_name}"]


async def test_a_merged_model_serves_where_it_was_started_and_is_loaded_nowhere() -> None:
    merged, adapter = version(1, rank=0), version(2)
    store, own, plain = MemoryStore(merged, adapter), FakeWorker("own"), FakeWorker("plain")
    own.base = merged.worker_name
    async with controlling(store, own, plain, room=1):
        await until(lambda: store.versions[1].state is VersionState.CANDIDATE)
        await until(lambda: store.versions[2].state is VersionState.CANDIDATE)
        assert set(store.placed) == {("own", 1), ("plain", 2)}
        store.retire(1)
        await until(lambda: ("own", 1) not in store.placed)
        await asyncio.sleep(0.1)
    assert not [line for line in own.log if "load" in line], "it is the operator's to end"


async def test_a_merged_model_that_answers_wrongly_is_rejected() -> None:
    merged = version(1, rank=0)
    store, worker = MemoryStore(merged), FakeWorker()
    worker.base, worker.delta = merged.worker_name, 0.0
    async with controlling(store, worker):
        await until(lambda: store.versions[1].state is VersionState.REJECTED)
    assert "The base model answers" in store.reasons[-1][2]
    assert not any(p.routable for p in store.placed.values())


async def test_a_merged_model_that_no_worker_has_waits_and_holds_up_nobody() -> None:
    store, worker = MemoryStore(version(1), version(2, rank=0)), FakeWorker()
    async with controlling(store, worker, room=1):
        await until(lambda: store.versions[1].state is VersionState.CANDIDATE)
        assert store.versions[2].state is VersionState.REGISTERED


async def test_workers_that_are_gone_leave_nothing_behind() -> None:
    """Pods come and go for months, each under a name of its own."""
    store, known = MemoryStore(version(1, state=VersionState.SERVING)), dict[str, FakeWorker]()
    watch = WorkerWatch(lambda spec: known[spec.name], interval=0.02)
    async with asyncio.TaskGroup() as group, Loader(watch, store, max_cpu_loras=4) as loader:
        probing = group.create_task(watch.run())
        reconciler = Reconciler(
            store,
            watch,
            loader,
            max_cpu_loras=4,
            settings=PlacementSettings(),
            leading=lambda: True,
        )
        for name in (*(f"gpu@10.0.0.{number}" for number in range(5)), "last"):
            known[name] = FakeWorker(name)
            store.placed.clear()
            store.specs = {name: known[name].spec}
            store.count += 1
            while not store.placed:
                await reconciler.step(group)
                await asyncio.sleep(0.02)
            assert mentions(reconciler, name)
        await reconciler.step(group)
        assert mentions(reconciler, "gpu@") == []
        probing.cancel()
