"""The controller with the real registry and workers over real HTTP."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.choose import choose
from gateway.controller.main import serve
from gateway.registry.service import Registry
from gateway.registry.snapshot import Effect, Placement, Version, VersionState
from gateway.registry.tables import Base
from gateway.settings import GatewaySettings, WorkerSettings
from gateway.workers.probe import Observed
from tests.integration.adapters import BASE, add_fingerprint, make_adapter
from tests.stub.server import StubWorker


@pytest.fixture
def workers() -> Iterator[list[StubWorker]]:
    with ExitStack() as stack:
        yield [stack.enter_context(StubWorker()) for _ in range(2)]


@pytest.fixture
def settings(tmp_path: Path, workers: list[StubWorker]) -> GatewaySettings:
    return GatewaySettings(
        database_url=f"sqlite:///{tmp_path / 'adapterloop.db'}",
        storage=tmp_path / "storage",
        outbox=tmp_path / "outbox",
        guard_socket=tmp_path / "guard.sock",
        workers=tuple(
            WorkerSettings(name=f"w{i}", url=worker.url) for i, worker in enumerate(workers)
        ),
        base_model=BASE,
        max_cpu_loras=3,
    )


@pytest.fixture
def registry(settings: GatewaySettings) -> Iterator[Registry]:
    made = Registry.from_settings(settings)
    Base.metadata.create_all(made._engine)
    made.prepare()
    yield made
    made.close()


@asynccontextmanager
async def controlling(settings: GatewaySettings, registry: Registry) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, registry, stop))
        try:
            yield
        finally:
            stop.set()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.05)


def register(registry: Registry, tmp_path: Path, seed: int, *, proof: bool = True) -> Version:
    folder = make_adapter(tmp_path / f"adapter-{seed}", seed=seed)
    if proof:
        add_fingerprint(folder, scale=0.5 + seed)
    return registry.register("default", "support", folder, "test")


def state(registry: Registry, version: Version) -> VersionState:
    return registry.version(version.tenant, version.alias, version.number).state


def placements(registry: Registry, version: Version) -> dict[str, Placement]:
    return {p.worker: p for p in registry.snapshot().placements.get(version.id, ())}


def proven_on(registry: Registry, version: Version, *names: str) -> bool:
    placed = placements(registry, version)
    return all(n in placed and placed[n].effect is Effect.EFFECTIVE for n in names)


@pytest.mark.parametrize("proof", [True, False])
async def test_registered_adapters_are_loaded_and_proven_on_every_worker(
    settings: GatewaySettings,
    registry: Registry,
    workers: list[StubWorker],
    tmp_path: Path,
    proof: bool,
) -> None:
    async with controlling(settings, registry):
        version = register(registry, tmp_path, 1, proof=proof)
        await until(lambda: proven_on(registry, version, "w0", "w1"))
        await until(lambda: state(registry, version) is VersionState.CANDIDATE)
        await until(lambda: all(status.healthy for status in registry.workers()))
    assert [worker.seen.loads for worker in workers] == [[version.worker_name]] * 2
    registry.promote("default", "support", version.number, "test")
    assert (registry.reference(version.id) is not None) or not proof


async def test_a_worker_whose_base_answers_is_never_routable(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    workers[0].worker.load_fault = "no_effect"
    async with controlling(settings, registry):
        version = register(registry, tmp_path, 1)
        await until(lambda: proven_on(registry, version, "w1"))
        await until(lambda: "w0" in placements(registry, version))
        await until(lambda: state(registry, version) is VersionState.CANDIDATE)
        placed = placements(registry, version)
        assert placed["w0"].effect is Effect.NO_EFFECT
        names = frozenset({"base@0", version.worker_name})
        fleet = {
            name: Observed(name, True, placement.boot, names, frozenset({"base@0"}))
            for name, placement in placed.items()
        }
        assert choose(version, placed.values(), fleet, {"w1": 1000}) == "w1"
        workers[0].worker.load_fault = "none"
        await until(lambda: proven_on(registry, version, "w0", "w1"))


@pytest.mark.parametrize("fault", ["no_effect", "mismatch", "error"])
async def test_a_version_that_no_worker_can_serve_is_rejected(
    settings: GatewaySettings,
    registry: Registry,
    workers: list[StubWorker],
    tmp_path: Path,
    fault: str,
) -> None:
    for worker in workers:
        worker.worker.load_fault = fault  # type: ignore[assignment]
    async with controlling(settings, registry):
        version = register(registry, tmp_path, 1)
        await until(lambda: state(registry, version) is VersionState.REJECTED)
        await until(lambda: not any(worker.worker.adapters for worker in workers))
        await until(lambda: not placements(registry, version))
    event = registry.describe("default", "support").versions[0].events[-1]
    assert event.state is VersionState.REJECTED
    assert "w0:" in event.reason
    assert "w1:" in event.reason


async def test_a_restarted_worker_gets_its_adapters_back(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    async with controlling(settings, registry):
        version = register(registry, tmp_path, 1)
        await until(lambda: proven_on(registry, version, "w0", "w1"))
        before = placements(registry, version)["w0"].boot
        await asyncio.to_thread(workers[0].restart)
        start = time.monotonic()
        await until(
            lambda: (
                proven_on(registry, version, "w0", "w1")
                and placements(registry, version)["w0"].boot != before
            )
        )
        assert time.monotonic() - start < 10
    assert version.worker_name in workers[0].worker.adapters


async def test_a_retired_version_leaves_only_after_busy_gateways(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    async with controlling(settings, registry):
        version = register(registry, tmp_path, 1)
        await until(lambda: proven_on(registry, version, "w0", "w1"))
        await until(lambda: state(registry, version) is VersionState.CANDIDATE)
        registry.heartbeat("g", registry.revision())
        registry.retire("default", "support", version.number, "test")
        registry.heartbeat("g", registry.revision(), [version.worker_name])
        await asyncio.sleep(1.5)
        assert all(version.worker_name in worker.worker.adapters for worker in workers)
        registry.heartbeat("g", registry.revision())
        await until(lambda: not any(worker.worker.adapters for worker in workers))
        await until(lambda: not placements(registry, version))


async def test_a_hanging_worker_does_not_stop_the_others(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    workers[0].worker.load_fault = "hang"
    async with controlling(settings, registry):
        first, second = register(registry, tmp_path, 1), register(registry, tmp_path, 2)
        await until(lambda: proven_on(registry, first, "w1"))
        await until(lambda: proven_on(registry, second, "w1"))
        await until(lambda: state(registry, second) is VersionState.CANDIDATE)


async def test_two_controllers_act_as_one(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    async with controlling(settings, registry), controlling(settings, registry):
        version = register(registry, tmp_path, 1)
        await until(lambda: proven_on(registry, version, "w0", "w1"))
        await asyncio.sleep(1)
    assert [worker.seen.loads for worker in workers] == [[version.worker_name]] * 2


async def test_the_process_ends_well_on_sigterm(
    settings: GatewaySettings, registry: Registry, workers: list[StubWorker], tmp_path: Path
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json())
    command = (sys.executable, "-m", "tests.integration.serve", "controller", str(file))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        version = register(registry, tmp_path, 1)
        await until(lambda: proven_on(registry, version, "w0", "w1"), 40)
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert registry.acquire_lease("controller", "another", 10)
