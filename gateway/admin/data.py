"""Imports, golden sets and data sets."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, BinaryIO

import msgspec
from anyio import from_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlalchemy import RowMapping
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from feedback.data.golden import MAX_ITEMS, GoldenItem
from feedback.data.imports import scrubbed_rows
from feedback.data.readers import MAX_BYTES, read_csv, read_jsonl
from feedback.data.rows import FIELDS, BadRow, GivenRow, Mapped
from feedback.data.service import DataStore
from feedback.errors import NotKnown
from gateway.admin.access import PUBLISHERS, READERS, Backstage, backstage, check_sees, needs, sees
from gateway.admin.data_schemas import (
    DatasetList,
    DatasetOut,
    DatasetRequest,
    GoldenIn,
    GoldenOut,
    ImportOut,
    LineageOut,
)
from gateway.admin.schemas import ErrorBody, Limit, paged
from gateway.admin.sources import MULTIPART_SLACK, bounded
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.registry.errors import AliasNotFound
from gateway.registry.snapshot import Key

JSONL = "application/jsonl"
_DIGEST = "^[0-9a-f]{64}$"
_LINES_AT_ONCE = 100
_FLAGS = {"": False, "false": False, "0": False, "true": True, "1": True}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "rows as .jsonl or .csv, in UTF-8",
        },
        "mapping": {
            "type": "string",
            "description": '{"output": "answer column", "constants": {"instruction": "..."}}',
        },
        "dry_run": {"type": "boolean", "default": False},
    },
}

Reader = Annotated[Key, Depends(needs(*READERS))]
Keeper = Annotated[Key, Depends(needs(*PUBLISHERS))]
Digest = Annotated[str, Path(pattern=_DIGEST)]


def _data(behind: Annotated[Backstage, Depends(backstage)]) -> DataStore:
    return DataStore(behind.database)


Data = Annotated[DataStore, Depends(_data)]


def create_router() -> APIRouter:
    """Make the routes under `/imports`, `/golden`, `/datasets` and `/lineage`."""
    router = APIRouter(tags=["data"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}
    lines: dict[int | str, dict[str, Any]] = {**missing, 200: {"content": {JSONL: {}}}}
    too_large: dict[int | str, dict[str, Any]] = {413: {"model": ErrorBody}}
    form = {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
    }
    router.add_api_route(
        "/imports/{alias}",
        import_rows,
        methods=["POST"],
        responses=too_large,
        openapi_extra=form,
    )
    router.add_api_route(
        "/golden/{alias}",
        put_golden,
        methods=["PUT"],
        responses=too_large,
        openapi_extra={"requestBody": {"required": True, "content": {JSONL: {}}}},
    )
    router.add_api_route("/golden/{alias}", get_golden, methods=["GET"], responses=lines)
    router.add_api_route("/datasets", build, methods=["POST"], status_code=201, responses=missing)
    router.add_api_route("/datasets", list_datasets, methods=["GET"])
    router.add_api_route("/datasets/{digest}", get_dataset, methods=["GET"], responses=missing)
    router.add_api_route("/datasets/{digest}/rows", get_rows, methods=["GET"], responses=lines)
    router.add_api_route("/lineage/{response_id}", lineage, methods=["GET"], responses=missing)
    return router


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of rows, and what to do with it."""

    name: str
    file: BinaryIO
    mapping: str
    dry_run: bool


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"A file of rows has at most {MAX_BYTES} bytes: send it in parts.")


async def _upload(request: Request, key: Keeper) -> AsyncIterator[Upload]:
    """Receive a form, once its sender is known. Raises `InvalidRequest`, `BodyTooLarge`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise InvalidRequest(
            "Send the rows as multipart/form-data with a field 'file'.", param="content-type"
        )
    request = bounded(request, MAX_BYTES + MULTIPART_SLACK, _too_large())
    try:
        async with request.form(max_files=1, max_fields=2) as form:
            yield _upload_in(form)
    except ClientDisconnect:
        raise InvalidRequest("The upload was cut off.") from None


def _upload_in(form: FormData) -> Upload:
    file, rest = form.get("file"), {name: form.get(name) or "" for name in ("mapping", "dry_run")}
    if not isinstance(file, UploadFile):
        raise InvalidRequest("Send the rows as a file in the field 'file'.", param="file")
    if file.size is not None and file.size > MAX_BYTES:
        raise _too_large()
    for name, value in rest.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"The field {name!r} is no file.", param=name)
    dry_run = _FLAGS.get(str(rest["dry_run"]).lower())
    if dry_run is None:
        raise InvalidRequest("'dry_run' is true or false.", param="dry_run")
    return Upload(file.filename or "", file.file, str(rest["mapping"]), dry_run)


def import_rows(
    alias: str,
    key: Keeper,
    behind: Annotated[Backstage, Depends(backstage)],
    data: Data,
    upload: Annotated[Upload, Depends(_upload)],
) -> ImportOut:
    """Import rows to train on: instruction, input, output, and a slice where there are several.

    Personal data in them is replaced as in answers, save what the alias's policy exempts.
    """
    check_sees(key, alias)

    def scrub(rows: Sequence[GivenRow]) -> Sequence[GivenRow]:
        return from_thread.run(scrubbed_rows, behind.scrubber, key.tenant, alias, rows)

    rows = _read(upload.name, upload.file, _mapped(upload.mapping))
    source, dry_run = _source_name(upload.name), upload.dry_run
    found = data.import_rows(key.tenant, alias, rows, source, scrub=scrub, dry_run=dry_run)
    return ImportOut.of(alias, found, dry_run)


def _source_name(name: str) -> str:
    return "".join(character for character in name if character.isprintable())[:200]


def _mapped(text: str) -> Mapped:
    """Read a mapping. Raises `InvalidRequest` that names the field."""
    if not text:
        return Mapped({}, {})
    try:
        value = msgspec.json.decode(text, type=dict[str, str | dict[str, str]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"The mapping is not JSON of names: {error}", param="mapping"
        ) from None
    constants = value.pop("constants", {})
    columns = {name: column for name, column in value.items() if isinstance(column, str)}
    texts = constants if isinstance(constants, dict) else {}
    for name in (*value, *texts):
        if name not in FIELDS or (name in value and name not in columns):
            known = ", ".join(FIELDS)
            raise InvalidRequest(
                f"The mapping names {name[:80]!r}; it maps {known}, each to a column's name.",
                param="mapping",
            )
    return Mapped(columns, texts)


def _read(name: str, file: BinaryIO, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    match name.rpartition(".")[2].lower():
        case "csv":
            return read_csv(file, mapped)
        case "jsonl":
            return read_jsonl(file, mapped)
        case _:
            raise InvalidRequest(f"{name[:80]!r} ends with neither .jsonl nor .csv.", param="file")


async def _golden_body(request: Request, key: Keeper) -> bytes:
    """Receive a body, once its sender is known. Raises `BodyTooLarge`."""
    try:
        return await bounded(request, MAX_BYTES, _too_large()).body()
    except ClientDisconnect:
        raise InvalidRequest("The upload was cut off.") from None


def _golden_items(body: bytes) -> list[GoldenItem]:
    """Read golden items. Raises `InvalidRequest` that names line and field."""
    lines = body.removeprefix(codecs.BOM_UTF8).split(b"\n")
    full = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(full) > MAX_ITEMS:
        raise InvalidRequest(f"A golden set has at most {MAX_ITEMS} items, not {len(full)}.")
    return [_golden_item(line, number) for number, line in full]


def _golden_item(line: bytes, number: int) -> GoldenItem:
    try:
        return GoldenIn.model_validate(msgspec.json.decode(line.decode())).item()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or None
        raise InvalidRequest(
            f"line {number}: {name or 'item'}: {first['msg']}", param=name
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"line {number} is not UTF-8: save the file as UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"line {number} is not JSON: {error}") from None


def put_golden(
    alias: str, key: Keeper, data: Data, body: Annotated[bytes, Depends(_golden_body)]
) -> GoldenOut:
    """Make these items (JSON lines) the alias's golden set; the versions before stay known."""
    check_sees(key, alias)
    return GoldenOut.of(alias, data.put_golden(key.tenant, alias, _golden_items(body)))


def get_golden(alias: str, key: Reader, data: Data, all: bool = False) -> Response:  # noqa: A002
    """Give the golden set as JSON lines: what is valid now, or all of it."""
    check_sees(key, alias)
    found = data.golden(key.tenant, alias, all_items=all)
    return _lines(map(msgspec.to_builtins, found.items), {"x-golden-digest": found.digest})


def build(body: DatasetRequest, key: Keeper, data: Data, response: Response) -> DatasetOut:
    """Make the data set of all that was imported and reviewed by now; what is the same is 200."""
    check_sees(key, body.alias)
    if not data.knows(key.tenant, body.alias) and not data.reviewed(key.tenant, body.alias):
        raise AliasNotFound(f"Nothing was imported or reviewed for {body.alias[:80]!r}.")
    made = data.build(key.tenant, body.alias)
    response.status_code = 201 if made.is_new else 200
    return DatasetOut.of(made.row)


def list_datasets(
    key: Reader,
    data: Data,
    alias: str | None = None,
    limit: Limit = 100,
    after: Annotated[str | None, Query(pattern=_DIGEST)] = None,
) -> DatasetList:
    """List data sets, the newest first."""
    if alias is not None:
        check_sees(key, alias)
    found = data.datasets(key.tenant, alias, limit + 1, aliases=key.aliases, after=after)
    return DatasetList(**paged([DatasetOut.of(row) for row in found], limit, "digest"))


def get_dataset(digest: Digest, key: Reader, data: Data) -> DatasetOut:
    """Tell of a data set."""
    found = data.dataset(key.tenant, digest)
    check_sees(key, found["alias"])
    return DatasetOut.of(found)


def get_rows(digest: Digest, key: Reader, data: Data) -> Response:
    """Give a data set's rows as JSON lines, each with where it came from.

    A row that was erased is there as `{"id", "erased": true, ...}`, without texts.
    """
    check_sees(key, data.dataset(key.tenant, digest)["alias"])
    return _lines(map(_row_out, data.rows(digest)), {})


def _row_out(row: RowMapping) -> dict[str, Any]:
    texts = ("instruction", "input", "output")
    told = {"id": row["row_digest"]}
    if row["erased_at"] is None:
        told |= {name: row[name] for name in texts}
    else:
        told["erased"] = True
    return told | {name: row[name] for name in ("slice", "origin", "lineage")}


def lineage(
    response_id: Annotated[str, Path(pattern="^[!-~]{1,200}$")], key: Reader, data: Data
) -> LineageOut:
    """Tell what became of an answer: flags, reviews, and the data sets that it is in."""
    found = LineageOut(**data.lineage(key.tenant, response_id))
    if found.alias is None or not sees(key, found.alias):
        raise NotKnown(f"There is no answer {response_id[:80]!r}.")
    return found


def _lines(values: Iterable[Any], headers: Mapping[str, str]) -> Response:
    """Stream values as JSON lines."""

    def parts() -> Iterator[bytes]:
        # One thread's turn for each part, so not for each line.
        source = iter(values)
        while some := list(islice(source, _LINES_AT_ONCE)):
            yield b"".join(msgspec.json.encode(value) + b"\n" for value in some)

    return StreamingResponse(parts(), media_type=JSONL, headers=dict(headers))
