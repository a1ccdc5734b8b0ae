"""A registry in memory for the controller, and waiting for what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gateway.errors import StoreUnavailable
from gateway.registry.records import Demand, GatewayBeat
from gateway.registry.snapshot import (
    Placement,
    Snapshot,
    Version,
    VersionState,
    WorkerSpec,
)
from tests.unit.gateway.workers.fake import fingerprint


class MemoryStore:
    """As much of the registry as the controller uses."""

    def __init__(self, *versions: Version) -> None:
        self.count = 0
        self.down = False
        self.versions = {v.id: v for v in versions}
        self.placed: dict[tuple[str, int], Placement] = {}
        self.specs: dict[str, WorkerSpec] = {}
        self.workers: dict[str, bool] = {}
        self.reasons: list[tuple[int, VersionState, str]] = []
        self.beats: tuple[GatewayBeat, ...] = ()
        self.references = {v.id: fingerprint() for v in versions}
        self.holder: str | None = None
        self.now = 1000.0
        self.used_at = {v.id: float(v.id) for v in versions}
        self.checked_at: dict[tuple[str, int], float] = {}

    def _ask(self) -> None:
        if self.down:
            raise StoreUnavailable

    def prepare(self) -> None:
        self._ask()

    def pulse(self) -> tuple[int, float]:
        self._ask()
        return self.count, max(self.used_at.values(), default=0.0)

    def demand(self) -> Demand:
        return Demand(self.now, dict(self.used_at), dict(self.checked_at))

    def snapshot(self, held: Snapshot | None = None) -> Snapshot:
        self._ask()
        placements: dict[int, tuple[Placement, ...]] = {}
        for placement in list(self.placed.values()):
            before = placements.get(placement.version_id, ())
            placements[placement.version_id] = (*before, placement)
        versions = {(v.tenant, v.alias, v.number): v for v in list(self.versions.values())}
        return Snapshot(self.count, {}, {}, versions, dict(self.specs), placements)

    def change(self, changed: Version) -> None:
        self.count += 1
        self.versions[changed.id] = changed

    def retire(self, version_id: int) -> None:
        ended = replace(self.versions[version_id], state=VersionState.RETIRED)
        self.change(replace(ended, draining=True, draining_since=self.count + 1))

    def set_state(self, version_id: int, state: VersionState, reason: str, actor: str) -> None:
        self._ask()
        self.reasons.append((version_id, state, reason))
        self.change(replace(self.versions[version_id], state=state))

    def record_placement(self, placement: Placement) -> None:
        self._ask()
        self.count += 1
        self.placed[(placement.worker, placement.version_id)] = placement
        self.checked_at[(placement.worker, placement.version_id)] = self.now

    def drop_placements(
        self, worker: str, version_ids: Iterable[int] | None = None, *, boot: str | None = None
    ) -> bool:
        self._ask()
        self.count += 1
        for version_id in version_ids or ():
            self.placed.pop((worker, version_id), None)
            self.checked_at.pop((worker, version_id), None)
        return True

    def record_worker(
        self,
        name: str,
        *,
        boot: str,
        healthy: bool,
        detail: str = "",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        self._ask()
        self.workers[name] = healthy

    def live_gateways(self, max_age_s: float) -> tuple[GatewayBeat, ...]:
        return tuple(beat for beat in self.beats if self.now - beat.heartbeat_at < max_age_s)

    def reference(self, version_id: int) -> Mapping[str, Any] | None:
        return self.references.get(version_id)

    def adopt_reference(self, version_id: int, made: Mapping[str, Any], worker: str) -> bool:
        return False

    def upsert_worker(self, spec: WorkerSpec) -> None:
        self._ask()
        self.count += 1
        self.specs[spec.name] = spec

    def remove_worker(self, name: str) -> bool:
        return self.specs.pop(name, None) is not None

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        self._ask()
        self.holder = self.holder or holder
        return self.holder == holder

    def release_lease(self, name: str, holder: str) -> bool:
        self.holder = None
        return True


async def until(
    condition: Callable[[], bool], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await pause(0.01)
