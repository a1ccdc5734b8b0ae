"""The bodies of the routes for workers. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any, Literal

from gateway.admin.schemas import Told
from gateway.registry.snapshot import Effect


class WorkerPlacementOut(Told):
    """A version that a worker has, or, with the effect `left_out`, was started without."""

    model: str
    effect: Effect | Literal["left_out"] | None
    routable: bool
    detail: str


class WorkerOut(Told):
    """A worker as last seen."""

    name: str
    url: str
    kind: str
    healthy: bool
    boot: str
    detail: str
    metrics: dict[str, Any]
    seen_at: float | None
    placements: list[WorkerPlacementOut]


class WorkerList(Told):
    """Every worker."""

    object: Literal["list"] = "list"
    data: list[WorkerOut]
