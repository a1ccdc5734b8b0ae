"""Imports, golden sets and data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, File, Form, Path, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from feedback.data.rows import FIELDS, BadRow, GivenRow, Mapped, read_csv, read_jsonl
from feedback.data.service import DataStore, GoldenItem
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
from gateway.admin.schemas import ErrorBody
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.registry.errors import AliasNotFound
from gateway.registry.snapshot import Key

MAX_BYTES = 64 * 1024 * 1024
MAX_GOLDEN = 5000
JSONL = "application/jsonl"

Reader = Annotated[Key, Depends(needs(*READERS))]
Keeper = Annotated[Key, Depends(needs(*PUBLISHERS))]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


def _data(behind: Annotated[Backstage, Depends(backstage)]) -> DataStore:
    return DataStore(behind.database)


Data = Annotated[DataStore, Depends(_data)]


def create_router() -> APIRouter:
    """Make the routes under `/imports`, `/golden`, `/datasets` and `/lineage`."""
    router = APIRouter(tags=["data"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}
    lines: dict[int | str, dict[str, Any]] = {**missing, 200: {"content": {JSONL: {}}}}
    too_large: dict[int | str, dict[str, Any]] = {413: {"model": ErrorBody}}
    router.add_api_route("/imports/{alias}", import_rows, methods=["POST"], responses=too_large)
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


def import_rows(
    alias: str,
    key: Keeper,
    data: Data,
    file: Annotated[UploadFile, File(description="rows as .jsonl or .csv, in UTF-8")],
    mapping: Annotated[
        str | None,
        Form(description='{"output": "answer column", "constants": {"instruction": "..."}}'),
    ] = None,
    dry_run: Annotated[bool, Form()] = False,
) -> ImportOut:
    """Import rows to train on: instruction, input, output, and a slice where there are several."""
    check_sees(key, alias)
    name = file.filename or ""
    rows = _read(name, file.file.read(MAX_BYTES + 1), _mapped(mapping))
    found = data.import_rows(key.tenant, alias, rows, name[:200], dry_run=dry_run)
    return ImportOut.of(alias, found, dry_run)


def _mapped(text: str | None) -> Mapped:
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


def _read(name: str, content: bytes, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    if len(content) > MAX_BYTES:
        raise BodyTooLarge(f"A file has at most {MAX_BYTES} bytes: import it in parts.")
    suffix = name.rpartition(".")[2].lower()
    if suffix not in ("jsonl", "csv"):
        raise InvalidRequest(f"{name[:80]!r} ends with neither .jsonl nor .csv.", param="file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(
            f"{name[:80]!r} is not UTF-8 on line {line}: save it as UTF-8.", param="file"
        ) from None
    return read_csv(text, mapped) if suffix == "csv" else read_jsonl(text, mapped)


async def _golden_items(request: Request, key: Keeper) -> list[GoldenItem]:
    """Read the items of a body. Raises `InvalidRequest` that names line and field."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise BodyTooLarge(f"A golden set has at most {MAX_BYTES} bytes.")
    lines = bytes(body).splitlines()
    items = [_golden_item(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if len(items) > MAX_GOLDEN:
        raise InvalidRequest(f"A golden set has at most {MAX_GOLDEN} items, not {len(items)}.")
    return items


def _golden_item(line: bytes, number: int) -> GoldenItem:
    try:
        return GoldenIn.model_validate(msgspec.json.decode(line)).item()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or None
        raise InvalidRequest(
            f"line {number}: {name or 'item'}: {first['msg']}", param=name
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"line {number} is not JSON: {error}") from None


def put_golden(
    alias: str,
    key: Keeper,
    data: Data,
    items: Annotated[list[GoldenItem], Depends(_golden_items)],
) -> GoldenOut:
    """Make these items (JSON lines) the alias's golden set; the versions before stay known."""
    check_sees(key, alias)
    return GoldenOut.of(alias, data.put_golden(key.tenant, alias, items))


def get_golden(alias: str, key: Reader, data: Data, all: bool = False) -> Response:  # noqa: A002
    """Give the golden set as JSON lines: what is valid now, or all of it."""
    check_sees(key, alias)
    found = data.golden(key.tenant, alias, all_items=all)
    text = "".join(_line(msgspec.to_builtins(item)) for item in found.items)
    return Response(text, media_type=JSONL, headers={"x-golden-digest": found.digest})


def build(body: DatasetRequest, key: Keeper, data: Data, response: Response) -> DatasetOut:
    """Make the data set of all that was imported and reviewed by now; what is the same is 200."""
    check_sees(key, body.alias)
    if not data.knows(key.tenant, body.alias) and not data.reviewed(key.tenant, body.alias):
        raise AliasNotFound(f"Nothing was imported or reviewed for {body.alias[:80]!r}.")
    made = data.build(key.tenant, body.alias)
    response.status_code = 201 if made.is_new else 200
    return DatasetOut.of(made.row)


def list_datasets(key: Reader, data: Data, alias: str | None = None) -> DatasetList:
    """List data sets, the newest first."""
    found = data.datasets(key.tenant, alias)
    return DatasetList(data=[DatasetOut.of(row) for row in found if sees(key, row["alias"])])


def get_dataset(digest: Digest, key: Reader, data: Data) -> DatasetOut:
    """Tell of a data set."""
    found = data.dataset(key.tenant, digest)
    check_sees(key, found["alias"])
    return DatasetOut.of(found)


def get_rows(digest: Digest, key: Reader, data: Data) -> Response:
    """Give a data set's rows as JSON lines, each with where it came from."""
    check_sees(key, data.dataset(key.tenant, digest)["alias"])
    names = ("instruction", "input", "output", "slice", "origin", "lineage")
    lines = (
        _line({"id": row["row_digest"], **{name: row[name] for name in names}})
        for row in data.rows(digest)
    )
    return StreamingResponse(lines, media_type=JSONL)


def lineage(
    response_id: Annotated[str, Path(max_length=200)], key: Reader, data: Data
) -> LineageOut:
    """Tell what became of an answer: flags, reviews, and the data sets that it is in."""
    found = LineageOut(**data.lineage(key.tenant, response_id))
    if found.alias is not None:
        check_sees(key, found.alias)
    return found


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
