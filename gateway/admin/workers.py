"""Workers as last seen."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from gateway.admin.access import Backstage, backstage, needs, sees
from gateway.admin.schemas import WorkerList, WorkerOut, WorkerPlacementOut
from gateway.registry.records import WorkerStatus
from gateway.registry.snapshot import BASE_TENANT, Key, Snapshot


def create_router() -> APIRouter:
    """Make the routes under `/workers`."""
    router = APIRouter(prefix="/workers", tags=["workers"])
    router.add_api_route("", list_workers, methods=["GET"])
    return router


def list_workers(
    key: Annotated[Key, Depends(needs("admin", "trainer"))],
    behind: Annotated[Backstage, Depends(backstage)],
) -> WorkerList:
    """List every worker: whether it is healthy, and what it has of the key's own adapters."""
    snapshot = behind.registry.snapshot()
    return WorkerList(data=[_tell(w, key, snapshot) for w in behind.registry.workers()])


def _tell(worker: WorkerStatus, key: Key, snapshot: Snapshot) -> WorkerOut:
    placements = []
    for version in snapshot.versions.values():
        if version.tenant not in (key.tenant, BASE_TENANT) or not sees(key, version.alias):
            continue
        for found in snapshot.placements.get(version.id, ()):
            if found.worker == worker.name:
                routable = found.routable and found.boot == worker.boot and not version.draining
                placements.append(
                    WorkerPlacementOut(
                        model=version.model,
                        effect=found.effect,
                        routable=routable,
                        detail=found.detail,
                    )
                )
    return WorkerOut(
        name=worker.name,
        url=worker.url,
        kind=worker.kind,
        healthy=worker.healthy,
        boot=worker.boot,
        detail=worker.detail,
        metrics=dict(worker.metrics),
        seen_at=worker.seen_at,
        placements=placements,
    )
