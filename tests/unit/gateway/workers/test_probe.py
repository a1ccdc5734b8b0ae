"""Probing: what is observed, when a boot is another one, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.registry.snapshot import Effect, Placement, WorkerSpec
from gateway.workers.admin import ServedModel
from gateway.workers.errors import UnsupportedKind, WorkerUnreachable
from gateway.workers.probe import SLOW_PROBES, Observed, Prober, WorkerWatch, base_model_of
from tests.unit.gateway.workers.fake import FakeWorker, base_version, version

ADAPTER = version().worker_name


def prober(worker: FakeWorker) -> Prober:
    return Prober(worker.spec, worker, clock=lambda: 7.0)


async def test_probe_tells_names_and_boot() -> None:
    worker = FakeWorker()
    worker.loaded[ADAPTER] = "/adapters/1"
    seen = await prober(worker).probe()
    assert seen.healthy
    assert seen.boot == "100.00"
    assert seen.bases == {"base@0"}
    assert seen.adapters == {ADAPTER}
    assert seen.at == 7.0
    assert seen.serves(version())
    assert seen.serves(base_version())
    assert not seen.serves(version(2))


async def test_down_worker_is_told_with_the_reason() -> None:
    worker = FakeWorker()
    probe = prober(worker)
    await probe.probe()
    worker.up = False
    seen = await probe.probe()
    assert not seen.healthy
    assert seen.names == frozenset()
    assert "refused" in seen.detail


async def test_a_worker_whose_answers_cannot_be_read_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = FakeWorker()
    probe = prober(worker)
    await probe.probe()

    async def odd() -> tuple[ServedModel, ...]:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(worker, "models", odd)
    seen = await probe.probe()
    assert not seen.healthy
    assert "invalid start byte" in seen.detail


async def test_a_worker_that_sleeps_gets_no_calls_and_its_naps_are_counted() -> None:
    worker = FakeWorker()
    probe = prober(worker)
    await probe.probe()
    worker.asleep = True
    for _ in range(2):
        seen = await probe.probe()
        assert (seen.healthy, seen.asleep, seen.detail) == (False, True, "The worker sleeps.")
    worker.asleep = False
    seen = await probe.probe()
    assert (seen.healthy, seen.boot, seen.naps) == (True, "100.00", 1)


async def test_slow_worker_keeps_its_place_for_a_few_probes() -> None:
    worker = FakeWorker()
    probe = prober(worker)
    await probe.probe()
    worker.slow = True
    health = [(await probe.probe()).healthy for _ in range(SLOW_PROBES)]
    assert health == [True] * (SLOW_PROBES - 1) + [False]
    worker.slow = False
    assert (await probe.probe()).healthy


async def test_slow_worker_that_was_never_up_is_down() -> None:
    worker = FakeWorker()
    worker.slow = True
    assert not (await prober(worker).probe()).healthy


async def test_boot_is_counted_where_the_worker_does_not_tell() -> None:
    worker = FakeWorker()
    worker.boot = None
    worker.loaded[ADAPTER] = "/adapters/1"
    probe = prober(worker)
    first = (await probe.probe()).boot
    assert (await probe.probe()).boot == first
    worker.loaded.clear()
    second = (await probe.probe()).boot
    assert second != first
    worker.up = False
    await probe.probe()
    worker.up = True
    assert (await probe.probe()).boot not in (first, second)


async def test_our_own_unload_is_no_restart() -> None:
    worker = FakeWorker()
    worker.boot = None
    worker.loaded[ADAPTER] = "/adapters/1"
    probe = prober(worker)
    first = (await probe.probe()).boot
    probe.leaving(ADAPTER)
    worker.loaded.clear()
    assert (await probe.probe()).boot == first


def test_boots_are_compared_only_where_they_can_be() -> None:
    def placed(boot: str) -> Placement:
        return Placement("w1", 1, boot, Effect.EFFECTIVE)

    told, counted = Observed("w1", boot="100.00"), Observed("w1", boot="~ab-1")
    assert told.same_boot(placed("100.00"))
    assert not told.same_boot(placed("101.00"))
    assert not told.same_boot(placed("~cd-1"))
    assert counted.same_boot(placed("~cd-4"))
    assert not counted.same_boot(placed("100.00"))
    assert not Observed("w1").same_boot(placed(""))


@asynccontextmanager
async def watching(*workers: FakeWorker, interval: float = 0.02) -> AsyncIterator[WorkerWatch]:
    known = {worker.spec.name: worker for worker in workers}
    watch = WorkerWatch(lambda spec: known[spec.name], interval=interval)
    watch.set_workers(worker.spec for worker in workers)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch.run())
        yield watch
        task.cancel()


async def until_health(watch: WorkerWatch, worker: str, healthy: bool) -> None:
    async with asyncio.timeout(5):
        while watch.observed[worker].healthy is not healthy:
            await watch.wait_change(1)


async def test_watch_sees_workers_go_and_come_back() -> None:
    worker = FakeWorker()
    async with watching(worker) as watch:
        before = watch.observed
        await until_health(watch, "w1", True)
        assert not before["w1"].healthy
        worker.up = False
        await until_health(watch, "w1", False)
        worker.up = True
        await until_health(watch, "w1", True)


async def test_a_dead_worker_does_not_hold_up_others() -> None:
    dead, fine = FakeWorker("dead"), FakeWorker("fine")
    dead.up = False
    async with watching(dead, fine) as watch:
        await until_health(watch, "fine", True)


async def test_suspect_is_probed_at_once() -> None:
    worker = FakeWorker()
    async with watching(worker, interval=60) as watch:
        await until_health(watch, "w1", True)
        worker.up = False
        watch.suspect("w1")
        watch.suspect("nobody")
        await until_health(watch, "w1", False)  # and not a minute later


async def test_workers_are_added_and_removed() -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    async with watching(first, second) as watch:
        await until_health(watch, "w2", True)
        watch.set_workers([first.spec])
        assert set(watch.observed) == {"w1"}
        with pytest.raises(WorkerUnreachable):
            await watch.look("w2")
        await asyncio.sleep(0.05)
        assert set(watch.observed) == {"w1"}
        watch.set_workers([second.spec])
        await until_health(watch, "w2", True)
        assert set(watch.observed) == {"w2"}


async def test_a_worker_is_not_lost_when_it_is_told_what_it_runs_without() -> None:
    worker = FakeWorker()
    async with watching(worker) as watch:
        await until_health(watch, "w1", True)
        watch.set_workers([replace(worker.spec, left_out=(("support@3-1a2b3c4d", "odd"),))])
        assert watch.observed["w1"].healthy
        watch.set_workers([replace(worker.spec, url="http://elsewhere")])
        assert not watch.observed["w1"].healthy


async def test_wait_change_ends_without_a_change() -> None:
    worker = FakeWorker()
    async with watching(worker) as watch:
        await until_health(watch, "w1", True)
        assert not await watch.wait_change(0.05)


async def test_new_snapshot_wakes_those_who_wait() -> None:
    watch = WorkerWatch(lambda spec: FakeWorker())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(watch.wait_change(5))
        await asyncio.sleep(0)
        watch.set_workers([FakeWorker().spec])
    assert waiting.result()


async def test_a_probe_that_fails_oddly_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker()
    async with watching(worker) as watch:
        await until_health(watch, "w1", True)
        loaded, worker.loaded = worker.loaded, None  # type: ignore[assignment]
        async with asyncio.timeout(5):
            while "probing worker w1 failed" not in caplog.text:  # noqa: ASYNC110 (the watch logs it)
                await asyncio.sleep(0.01)
        worker.loaded = loaded
        worker.up = False
        await until_health(watch, "w1", False)


async def test_worker_of_an_unknown_kind_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(spec: WorkerSpec) -> FakeWorker:
        raise UnsupportedKind

    watch = WorkerWatch(refuse)
    watch.set_workers([FakeWorker().spec])
    assert not watch.observed
    assert "cannot be watched" in caplog.text


def test_the_name_that_clients_use_is_the_default_tenants_and_only_where_it_was_declared() -> None:
    names = frozenset({"base@0", "support@1"})
    declared = Observed("w1", names=names, bases=frozenset({"base@0"}), static=True)
    assert declared.name_of(version()) == "support@1"
    assert declared.name_of(replace(version(), tenant="acme")) is None
    assert replace(declared, static=False).name_of(version()) is None


def test_only_workers_that_load_fit_what_they_lack() -> None:
    loads = Observed("w1", names=frozenset({"base@0"}), bases=frozenset({"base@0"}))
    assert loads.fits(version())
    assert not replace(loads, static=True).fits(version())
    assert not Observed("w1").fits(version())


BASES = {"base": "org/Smol-1", "qwen": "org/Qwen2.5-7B"}


@pytest.mark.parametrize(
    ("declared", "name", "root", "found"),
    [
        (None, "base@0", "/models/Qwen2.5-7B", "org/Qwen2.5-7B"),
        (None, "qwen2.5-7b", "", "org/Qwen2.5-7B"),
        (None, "base@0", "/models/unheard-of", "org/Smol-1"),
        ("qwen", "file.gguf", "file.gguf", "org/Qwen2.5-7B"),
        ("lost", "base@0", "/models/Smol-1", "lost"),
    ],
)
def test_a_workers_base_is_declared_or_listed_or_the_default_one(
    declared: str | None, name: str, root: str, found: str
) -> None:
    models = [ServedModel(name, root, None), ServedModel("a@1-00000001", "/Smol-1", name)]
    assert base_model_of(declared, models, BASES) == found


def test_with_one_base_nothing_is_told_apart() -> None:
    assert base_model_of(None, [], {"base": "org/Smol-1"}) == ""


def test_a_base_that_is_declared_counts_where_it_is_the_only_one_too() -> None:
    """Another base's worker takes no adapters just because `bases` does not list it."""
    assert base_model_of("base", [], {"base": "org/Smol-1"}) == "org/Smol-1"
    assert base_model_of("smol-awq", [], {"base": "org/Smol-1"}) == "smol-awq"


def test_versions_go_only_to_workers_of_their_base() -> None:
    smol = Observed("w1", names=frozenset({"m"}), bases=frozenset({"m"}), base_model="org/Smol-1")
    mine = replace(version(), base_model="/models/smol-1")
    other = replace(version(), base_model="org/Qwen2.5-7B")
    assert (smol.fits(mine), smol.fits(other)) == (True, False)
    qwen = replace(base_version(), alias="qwen", base_model="org/Qwen2.5-7B")
    assert smol.name_of(replace(base_version(), base_model="org/Smol-1")) == "m"
    assert smol.name_of(qwen) is None
    # Configured no more: its alias is there still, and no worker answers for it.
    assert replace(smol, base_model="").name_of(qwen) is None


async def test_a_worker_that_was_started_with_a_merged_model_has_no_base() -> None:
    worker, merged = FakeWorker(), version(rank=0)
    worker.base = merged.worker_name
    seen = await prober(worker).probe()
    assert (seen.bases, seen.merged, seen.adapters) == (set(), {merged.worker_name}, set())
    assert seen.serves(merged)
    assert seen.fits(merged)
    assert not seen.serves(base_version())
    assert not seen.fits(version(2)), "an adapter fits the model that it was trained on"
    assert not seen.fits(version(2, rank=0))


async def test_a_merged_model_under_a_name_without_its_digest_is_no_base_either() -> None:
    worker, merged = FakeWorker(), version(rank=0)
    worker.base = merged.model
    seen = await prober(worker).probe()
    assert not seen.serves(base_version())
    assert not seen.serves(merged), "nothing says which files were meant"
