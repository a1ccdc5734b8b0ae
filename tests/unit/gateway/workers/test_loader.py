"""Load, verify, record: once, in turn, and never believed without proof."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gateway.registry.snapshot import Effect, Placement
from gateway.workers.admin import Capabilities
from gateway.workers.errors import (
    FingerprintInvalid,
    LoadRefused,
    NoRoom,
    WorkerRestarted,
    WorkerResting,
    WorkerUnreachable,
)
from gateway.workers.loader import REST_MAX_S, REST_S, Circuit, Loader
from gateway.workers.probe import WorkerWatch
from tests.unit.gateway.workers.fake import BASE, FakeWorker, fingerprint, version


class Evidence:
    """What the registry would keep."""

    def __init__(self) -> None:
        self.references: dict[int, Mapping[str, Any]] = {}
        self.placements: list[Placement] = []

    def reference(self, version_id: int) -> Mapping[str, Any] | None:
        return self.references.get(version_id)

    def adopt_reference(self, version_id: int, made: Mapping[str, Any], worker: str) -> bool:
        self.references[version_id] = made
        return True

    def record_placement(self, placement: Placement) -> None:
        self.placements.append(placement)


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def other() -> FakeWorker:
    return FakeWorker("w2")


@pytest.fixture
def evidence() -> Evidence:
    made = Evidence()
    made.references[1] = fingerprint()
    made.references[2] = fingerprint()
    return made


@pytest.fixture
async def loader(
    worker: FakeWorker, other: FakeWorker, evidence: Evidence
) -> AsyncIterator[Loader]:
    known = {"w1": worker, "w2": other}
    watch = WorkerWatch(lambda spec: known[spec.name])
    watch.set_workers([worker.spec, other.spec])
    async with Loader(watch, evidence, max_cpu_loras=2) as loader:
        yield loader


async def test_a_proven_load_is_recorded_for_this_boot(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    placement = await loader.ensure("w1", version())
    assert placement == evidence.placements[0]
    assert (placement.effect, placement.boot) == (Effect.EFFECTIVE, "100.00")
    assert placement.routable
    assert worker.log[0] == f"load {version().worker_name}"


@pytest.mark.parametrize(
    ("delta", "effect"), [(0.0, Effect.NO_EFFECT), (-1.0, Effect.MISMATCH), (0.4, Effect.MISMATCH)]
)
async def test_an_accepted_load_that_answers_wrongly_is_never_routable(
    loader: Loader,
    worker: FakeWorker,
    caplog: pytest.LogCaptureFixture,
    delta: float,
    effect: Effect,
) -> None:
    worker.delta = delta
    placement = await loader.ensure("w1", version())
    assert placement.effect is effect
    assert not placement.routable
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_many_callers_make_one_load(loader: Loader, worker: FakeWorker) -> None:
    worker.pause = 0.02
    placements = await asyncio.gather(*(loader.ensure("w1", version()) for _ in range(50)))
    assert len(set(placements)) == 1
    assert [line for line in worker.log if line.startswith("load")] == [worker.log[0]]


async def test_loads_on_one_worker_take_turns(
    loader: Loader, worker: FakeWorker, other: FakeWorker
) -> None:
    worker.pause = other.pause = 0.02
    await asyncio.gather(
        loader.ensure("w1", version(1)),
        loader.ensure("w1", version(2)),
        loader.ensure("w2", version(1)),
    )
    assert worker.max_loading == 1


async def test_a_caller_that_leaves_does_not_stop_the_load(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    worker.pause = 0.02
    stays = asyncio.ensure_future(loader.ensure("w1", version()))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await loader.ensure("w1", version())
    assert (await stays).routable
    assert len(evidence.placements) == 1


async def test_the_base_is_measured_once_per_boot(loader: Loader, worker: FakeWorker) -> None:
    await loader.ensure("w1", version(1))
    await loader.ensure("w1", version(2))
    assert worker.log.count(f"measure {BASE}") == 3
    worker.restart()
    await loader.ensure("w1", version(1))
    assert worker.log.count(f"measure {BASE}") == 6


async def test_a_full_worker_is_not_given_more(loader: Loader, worker: FakeWorker) -> None:
    worker.loaded = {"x": "/x", "y": "/y"}
    with pytest.raises(NoRoom, match="2 adapters of 2"):
        await loader.ensure("w1", version())
    assert worker.log == []


async def test_a_full_worker_may_verify_what_it_has(loader: Loader, worker: FakeWorker) -> None:
    worker.loaded = {"x": "/x", version().worker_name: "/adapters/1"}
    assert (await loader.ensure("w1", version())).routable


async def test_a_refusal_reaches_every_caller(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    worker.refuse = "rank 64 is too large"
    results = await asyncio.gather(
        *(loader.ensure("w1", version()) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [LoadRefused] * 3
    assert not evidence.placements
    worker.refuse = ""
    assert (await loader.ensure("w1", version())).routable


async def test_a_worker_that_is_down_is_told(loader: Loader, worker: FakeWorker) -> None:
    worker.up = False
    with pytest.raises(WorkerUnreachable, match="w1 is down"):
        await loader.ensure("w1", version())


async def test_a_restart_during_the_load_proves_nothing(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    async def restart_after(model: str, token_ids: object, answer_start: int) -> list[float]:
        if model != BASE:
            worker.restart()
        return [-2.0, -2.0]

    worker.answer_logprobs = restart_after  # type: ignore[method-assign, assignment]
    with pytest.raises(WorkerRestarted):
        await loader.ensure("w1", version())
    assert not evidence.placements


async def test_without_a_reference_the_first_worker_makes_one(
    loader: Loader, other: FakeWorker, evidence: Evidence
) -> None:
    del evidence.references[1]
    assert (await loader.ensure("w1", version())).effect is Effect.EFFECTIVE
    assert evidence.references[1]["adapter_mean"] == [-2.0] * 3
    other.delta = 2.0
    assert (await loader.ensure("w2", version())).effect is Effect.MISMATCH


async def test_without_a_reference_the_base_in_disguise_is_found(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    del evidence.references[1]
    worker.delta = 0.0
    assert (await loader.ensure("w1", version())).effect is Effect.NO_EFFECT
    assert 1 not in evidence.references


async def test_a_broken_fingerprint_is_told_before_anything_is_loaded(
    loader: Loader, worker: FakeWorker, evidence: Evidence
) -> None:
    evidence.references[1] = {"prompts": []}
    with pytest.raises(FingerprintInvalid):
        await loader.ensure("w1", version())
    assert worker.log == []


async def test_reload_takes_the_name_off_first(loader: Loader, worker: FakeWorker) -> None:
    worker.delta = 0.0
    await loader.ensure("w1", version())
    worker.delta, worker.log = 1.0, []
    assert (await loader.reload("w1", version())).routable
    name = version().worker_name
    assert worker.log[:2] == [f"unload {name}", f"load {name}"]


def test_the_pause_doubles_and_counts_from_when_the_worker_is_up() -> None:
    circuit = Circuit()
    assert circuit.rest(0.0) == 0.0
    for turn in range(8):
        circuit.tripped()
        began = 1000.0 * turn  # however long the restart took
        pause = min(REST_S * 2**turn, REST_MAX_S)
        assert circuit.rest(began) == pause
        assert circuit.rest(began + pause / 2) == pause / 2
        assert circuit.rest(began + pause) == 0.0


async def test_a_worker_that_dies_under_loads_is_left_in_peace(
    worker: FakeWorker, evidence: Evidence
) -> None:
    now = 0.0
    watch = WorkerWatch(lambda spec: worker)
    watch.set_workers([worker.spec])

    async def dies(model: str, token_ids: object, answer_start: int) -> list[float]:
        worker.restart()
        raise WorkerUnreachable("the connection was closed")

    answers, worker.answer_logprobs = worker.answer_logprobs, dies  # type: ignore[method-assign]
    async with Loader(watch, evidence, max_cpu_loras=2, clock=lambda: now) as loader:
        for turn in range(3):
            with pytest.raises(WorkerUnreachable):
                await loader.ensure("w1", version())
            worker.log.clear()
            for id_ in (1, 2, 1):
                with pytest.raises(WorkerResting, match=f"{turn + 1} loads in a row"):
                    await loader.ensure("w1", version(id_))
            with pytest.raises(WorkerResting):
                await loader.reload("w1", version())
            assert worker.log == []
            now += REST_S * 2**turn
        worker.answer_logprobs = answers  # type: ignore[method-assign]
        assert (await loader.ensure("w1", version())).routable
        assert (await loader.ensure("w1", version(2))).routable


async def test_what_a_worker_was_started_with_is_proven_and_never_loaded(
    loader: Loader, worker: FakeWorker
) -> None:
    worker.capabilities = Capabilities(runtime_load=False, forced_tokens=True)
    worker.loaded[version().worker_name] = "/loras/1.gguf"
    placement = await loader.ensure("w1", version())
    assert placement.effect is Effect.EFFECTIVE
    worker.delta = 0.0
    assert (await loader.reload("w1", version())).effect is Effect.NO_EFFECT
    assert not [line for line in worker.log if "load" in line]


async def test_what_cannot_be_measured_is_routable_by_declaration(
    loader: Loader, worker: FakeWorker
) -> None:
    worker.capabilities = Capabilities(runtime_load=False, forced_tokens=False)
    worker.loaded[version().model] = "my-lora"
    placement = await loader.ensure("w1", version())
    assert (placement.effect, placement.routable) == (Effect.DECLARED, True)
    assert placement.detail == "Declared, not measured."
    assert worker.log == []


async def test_a_static_worker_is_not_asked_for_what_it_lacks(
    loader: Loader, worker: FakeWorker
) -> None:
    worker.capabilities = Capabilities(runtime_load=False, forced_tokens=True)
    with pytest.raises(LoadRefused, match="started without it"):
        await loader.ensure("w1", version())


async def test_a_merged_model_is_proven_by_its_reference_and_never_loaded(
    loader: Loader, worker: FakeWorker
) -> None:
    merged = version(rank=0)
    worker.base = merged.worker_name
    placement = await loader.ensure("w1", merged)
    assert placement.effect is Effect.EFFECTIVE
    assert worker.log == [f"measure {merged.worker_name}"] * 3
    worker.delta = 0.0
    assert (await loader.reload("w1", merged)).effect is Effect.NO_EFFECT
    assert not [line for line in worker.log if "load" in line]


async def test_a_merged_model_without_a_fingerprint_is_taken_by_its_name(
    loader: Loader, worker: FakeWorker
) -> None:
    merged = version(3, rank=0)
    worker.base = merged.worker_name
    placement = await loader.ensure("w1", merged)
    assert (placement.effect, placement.routable) == (Effect.DECLARED, True)
    assert placement.detail == "Declared, not measured: it brings no fingerprint."
    with pytest.raises(LoadRefused, match="started without it"):
        await loader.ensure("w2", merged)


async def test_a_worker_that_has_a_merged_model_takes_no_adapters(
    loader: Loader, worker: FakeWorker
) -> None:
    worker.base = version(3, rank=0).worker_name
    with pytest.raises(LoadRefused, match="another base model"):
        await loader.ensure("w1", version())
