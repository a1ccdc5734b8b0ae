"""What was used, per day, alias, version and key, as JSON or CSV."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, fields
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from feedback.usage import Used, day_of, usage_of
from gateway.admin.access import ADMINS, Backstage, backstage, check_sees, needs
from gateway.admin.schemas import Told
from gateway.errors import InvalidRequest
from gateway.registry.snapshot import Key

Behind = Annotated[Backstage, Depends(backstage)]
Admin = Annotated[Key, Depends(needs(*ADMINS))]
_MONTH_S = 30 * 86_400


class UsedOut(Told):
    """Calls and tokens of a key with a version of an alias on a day (UTC)."""

    day: str
    tenant: str
    alias: str
    version: int
    key_id: int
    requests: int
    prompt_tokens: int
    completion_tokens: int


class UsageList(Told):
    """The usage of the caller's tenant, from day to day, both included."""

    object: Literal["list"] = "list"
    since: str
    until: str
    data: list[UsedOut]


def create_router() -> APIRouter:
    """Make the route `/usage`."""
    router = APIRouter(prefix="/usage", tags=["usage"])
    csv_too: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}}
    router.add_api_route(
        "",
        usage,
        methods=["GET"],
        response_model=UsageList,
        responses=csv_too,
    )
    return router


def usage(
    key: Admin,
    behind: Behind,
    since: date | None = None,
    until: date | None = None,
    alias: str | None = None,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> UsageList | Response:
    """Tell what the tenant has used; the last thirty days where no days are given."""
    first = since.isoformat() if since else day_of(time.time() - _MONTH_S)
    last = until.isoformat() if until else day_of(time.time())
    if first > last:
        raise InvalidRequest("since comes after until.", param="since")
    if alias is not None:
        check_sees(key, alias)
    aliases = [alias] if alias is not None else _mine(key)
    lines = usage_of(behind.database, key.tenant, first, last, aliases)
    if form == "csv":
        return _csv(lines, f"usage-{first}-{last}.csv")
    data = [UsedOut(**asdict(line)) for line in lines]
    return UsageList(since=first, until=last, data=data)


def _mine(key: Key) -> list[str] | None:
    return None if key.aliases is None else sorted(key.aliases)


def _csv(lines: list[Used], name: str) -> Response:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in fields(Used)]
    writer.writerow(names)
    writer.writerows([[getattr(line, name) for name in names] for line in lines])
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="text/csv", headers=headers)
