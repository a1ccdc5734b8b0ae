"""Workers as last seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from gateway.admin.access import Backstage, backstage, needs, sees
from gateway.admin.workers_schemas import WorkerList, WorkerOut, WorkerPlacementOut
from gateway.registry.records import WorkerStatus
from gateway.registry.snapshot import BASE_TENANT, Key, Placement, Version, WorkerSpec


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
    mine = [
        version
        for version in snapshot.versions.values()
        if version.tenant in (key.tenant, BASE_TENANT) and sees(key, version.alias)
    ]
    placed: defaultdict[str, list[tuple[Version, Placement]]] = defaultdict(list)
    for version in mine:
        for placement in snapshot.placements.get(version.id, ()):
            placed[placement.worker].append((version, placement))
    left_out = {name: _left_out(spec, mine) for name, spec in snapshot.workers.items()}
    return WorkerList(
        data=[_tell(w, placed[w.name], left_out.get(w.name, [])) for w in behind.registry.workers()]
    )


def _left_out(spec: WorkerSpec, versions: Iterable[Version]) -> list[WorkerPlacementOut]:
    """Tell of the versions that a worker was started without."""
    reasons = dict(spec.left_out)
    return [
        WorkerPlacementOut(
            model=version.model,
            effect="left_out",
            routable=False,
            detail=reasons[version.worker_name],
        )
        for version in versions
        if version.worker_name in reasons
    ]


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Count a worker's adapters, whose names are their tenants' own."""
    return {
        name: len(value) if name in ("adapters", "merged") else value
        for name, value in metrics.items()
    }


def _tell(
    worker: WorkerStatus,
    placed: Iterable[tuple[Version, Placement]],
    left_out: Iterable[WorkerPlacementOut],
) -> WorkerOut:
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
        metrics=_figures(worker.metrics),
        seen_at=worker.seen_at,
        placements=[*placements, *left_out],
    )
