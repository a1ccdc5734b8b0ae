"""Workers as last seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends

from gateway.admin.access import Backstage, backstage, needs, sees
from gateway.admin.workers_schemas import WorkerList, WorkerOut, WorkerPlacementOut
from gateway.registry.records import WorkerStatus
from gateway.registry.snapshot import BASE_TENANT, Key, Placement, Version


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
    versions = {version.id: version for version in snapshot.versions.values()}
    placed: defaultdict[str, list[tuple[Version, Placement]]] = defaultdict(list)
    for version_id, placements in snapshot.placements.items():
        version = versions.get(version_id)
        if version and version.tenant in (key.tenant, BASE_TENANT) and sees(key, version.alias):
            for placement in placements:
                placed[placement.worker].append((version, placement))
    return WorkerList(data=[_tell(w, placed[w.name]) for w in behind.registry.workers()])


def _tell(worker: WorkerStatus, placed: Iterable[tuple[Version, Placement]]) -> WorkerOut:
    placements = [
        WorkerPlacementOut(
            model=version.model,
            effect=found.effect,
            routable=found.routable and found.boot == worker.boot and not version.draining,
            detail=found.detail,
        )
        for version, found in placed
    ]
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
