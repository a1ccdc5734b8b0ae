"""A worker on which a version was proven, as a registry knows it."""

from __future__ import annotations

from gateway.registry.service import Registry
from gateway.registry.snapshot import Effect, Placement, Version, WorkerSpec

WORKER, BOOT = "w", "100.00"


def prove(registry: Registry, version: Version) -> None:
    """Record that a worker is up and answers with the version."""
    registry.upsert_worker(WorkerSpec(WORKER, f"http://{WORKER}"))
    registry.record_worker(WORKER, boot=BOOT, healthy=True)
    registry.record_placement(Placement(WORKER, version.id, BOOT, Effect.EFFECTIVE))
