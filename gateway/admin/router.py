"""The admin API's router, mounted under `/admin/v1`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway.admin import (
    adapters,
    confidence,
    data,
    erasures,
    files,
    jobs,
    keys,
    options,
    policies,
    publish,
    review,
    usage,
    workers,
)
from gateway.admin.schemas import ErrorBody


def create_admin_router() -> APIRouter:
    """Make the router. It expects `app.state.serving` (`gateway.admin.access.Backstage`)."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody} for status in (400, 401, 403, 503)
    }
    router = APIRouter(responses=errors)
    for part in (
        *(adapters, files, options, publish, workers, policies, keys, usage, review),
        *(confidence, data, erasures, jobs),
    ):
        router.include_router(part.create_router())
    return router
