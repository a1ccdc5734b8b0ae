"""The files of a version, as they were registered."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import StreamingResponse

from gateway.admin.access import PUBLISHERS, Backstage, backstage, check_sees, needs
from gateway.admin.schemas import MAX_INT, ErrorBody
from gateway.errors import NotFound
from gateway.registry.snapshot import Key

Publisher = Annotated[Key, Depends(needs(*PUBLISHERS))]
Behind = Annotated[Backstage, Depends(backstage)]


def create_router() -> APIRouter:
    """Make the route `/adapters/{alias}/versions/{number}/files/{name}`."""
    router = APIRouter(prefix="/adapters", tags=["adapters"])
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/octet-stream": {}}},
        404: {"model": ErrorBody},
    }
    router.add_api_route(
        "/{alias}/versions/{number}/files/{name}",
        download,
        methods=["GET"],
        response_class=StreamingResponse,
        responses=responses,
    )
    return router


def download(
    alias: str,
    number: Annotated[int, Path(ge=0, le=MAX_INT)],
    name: str,
    key: Publisher,
    behind: Behind,
) -> StreamingResponse:
    """Give one of the files that the version's manifest names, for merges and exports."""
    check_sees(key, alias)
    version = behind.registry.version(key.tenant, alias, number)
    files = behind.registry.manifest(version.id).get("files", {})
    # The manifest's names are the storage's own: nothing else of the path is the caller's.
    if name not in files:
        raise NotFound(f"{version.model} has no such file; it has {', '.join(files) or 'none'}.")
    return StreamingResponse(
        behind.registry.read_file(version, name),
        media_type="application/octet-stream",
        headers={"content-length": str(files[name]["size"])},
    )
