"""Where a new version's files come from: an upload, or a folder on the gateway's machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.admin.adapters_schemas import ImportRequest
from gateway.errors import GatewayError, InvalidRequest
from gateway.registry.errors import AdapterTooLarge, InvalidAdapter
from gateway.registry.receiving import MAX_BYTES, Source
from gateway.settings import GatewaySettings

_MAX_JSON_BYTES = 64 * 1024
MULTIPART_SLACK = 1024 * 1024


@asynccontextmanager
async def read_source(request: Request, settings: GatewaySettings) -> AsyncIterator[Source]:
    """Read the request's body; uploaded files are gone when the block ends.

    Raises `InvalidRequest`, `InvalidAdapter`, and `AdapterTooLarge` as soon as too much comes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            request = bounded(request, _MAX_JSON_BYTES, _too_large(_MAX_JSON_BYTES))
            body = await request.body()
            own = [settings.storage_folder] if settings.storage_folder else []
            yield folder_within(_path_in(body), (*settings.import_roots, *own))
        elif kind == "multipart/form-data":
            limit = MAX_BYTES + MULTIPART_SLACK
            request = bounded(request, limit, _too_large(limit))
            async with request.form(max_files=16, max_fields=16) as form:
                yield _files_in(form.multi_items())
        else:
            raise InvalidRequest(
                "Send the files as multipart/form-data, or a JSON body with their path.",
                param="content-type",
            )
    except ClientDisconnect:
        raise InvalidRequest("The upload was cut off.") from None


def _too_large(limit: int) -> AdapterTooLarge:
    return AdapterTooLarge(f"The request is larger than {limit} bytes.")


def bounded(request: Request, limit: int, too_large: GatewayError) -> Request:
    """Give the request again; reading more than `limit` bytes of its body raises `too_large`."""
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def _path_in(body: bytes) -> str:
    try:
        return ImportRequest.model_validate_json(body).path
    except ValidationError as error:
        raise InvalidRequest('The body must be {"path": "<folder>"}.', param="path") from error


def _files_in(parts: Iterable[tuple[str, UploadFile | str]]) -> dict[str, BinaryIO]:
    files: dict[str, BinaryIO] = {}
    for field, part in parts:
        if not isinstance(part, UploadFile):
            raise InvalidRequest(
                f"The field {field[:80]!r} is no file: send every file in a field 'files'.",
                param=field[:80],
            )
        name = part.filename or ""
        if name in files:
            raise InvalidAdapter(f"The file {name[:80]!r} was sent twice.", param="files")
        files[name] = part.file
    return files


def folder_within(path: str, roots: Iterable[Path]) -> Path:
    """Give the real folder behind `path`, which must lie within one of `roots`.

    Links are resolved on both sides first. Raises `InvalidRequest`, which does not tell whether
    something outside exists.
    """
    try:
        folder = Path(path)
        real = folder.resolve()
        allowed = [root.resolve() for root in roots]
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequest("The path cannot be resolved.", param="path") from error
    if not folder.is_absolute():
        raise InvalidRequest("The path must be absolute.", param="path")
    if not any(real.is_relative_to(root) for root in allowed):
        raise InvalidRequest(
            "The path lies outside the folders that may be imported from (import_roots): "
            "upload the files instead.",
            param="path",
        )
    return real
