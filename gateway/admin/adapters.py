"""Adapters: register, look, promote, roll back, roll out, retire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from gateway.admin.access import (
    ADMINS,
    PUBLISHERS,
    READERS,
    Backstage,
    actor_of,
    backstage,
    check_sees,
    needs,
    publish,
)
from gateway.admin.adapters_schemas import (
    AliasDetailOut,
    AliasList,
    AliasOut,
    AliasSummaryOut,
    ImportRequest,
    PinRequest,
    PromoteRequest,
    RetireRequest,
    RolloutRequest,
    VersionOut,
    VersionSummaryOut,
)
from gateway.admin.publish import calibration
from gateway.admin.schemas import MAX_INT, ErrorBody, Limit, paged
from gateway.admin.sources import read_source
from gateway.errors import Conflict
from gateway.registry.names import PATTERN, check_name
from gateway.registry.receiving import Source
from gateway.registry.records import WantedAliases
from gateway.registry.snapshot import Key
from gateway.rollout.shadow import shadowed

Reader = Annotated[Key, Depends(needs(*READERS))]
Publisher = Annotated[Key, Depends(needs(*PUBLISHERS))]
Admin = Annotated[Key, Depends(needs(*ADMINS))]
Behind = Annotated[Backstage, Depends(backstage)]
AliasName = Annotated[str, Path(description="the name that apps call")]
VersionNumber = Annotated[int, Path(ge=0, le=MAX_INT)]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "description": "adapter_config.json, adapter_model.safetensors, "
                            "and manifest.json where there is one; or a merged model's "
                            "config.json, safetensors and tokenizer",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
            "application/json": {"schema": ImportRequest.model_json_schema()},
        },
    }
}


async def _source(
    alias: AliasName, request: Request, behind: Behind, key: Publisher
) -> AsyncIterator[Source]:
    """Read the files, once key and name are known to be good: mistakes cost little."""
    check_name(alias)
    check_sees(key, alias)
    async with read_source(request, behind.settings) as source:
        yield source


def create_router() -> APIRouter:
    """Make the routes under `/adapters`."""
    router = APIRouter(prefix="/adapters", tags=["adapters"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}
    refused: dict[int | str, dict[str, Any]] = {**missing, 409: {"model": ErrorBody}}
    router.add_api_route("", list_adapters, methods=["GET"])
    router.add_api_route("/{alias}", get_adapter, methods=["GET"], responses=missing)
    router.add_api_route(
        "/{alias}/versions",
        register,
        methods=["POST"],
        status_code=201,
        responses={200: {"model": VersionOut}, 413: {"model": ErrorBody}},
        openapi_extra=_BODY,
    )
    for path, endpoint in (
        ("/{alias}/promote", promote),
        ("/{alias}/rollback", rollback),
        ("/{alias}/rollout", rollout),
        ("/{alias}/versions/{number}/retire", retire),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], responses=refused)
    pin_path = "/{alias}/versions/{number}/pin"
    router.add_api_route(pin_path, pin, methods=["PUT"], responses=refused)
    router.add_api_route(pin_path, unpin, methods=["DELETE"], responses=refused)
    return router


def list_adapters(
    key: Reader,
    behind: Behind,
    prefix: Annotated[str, Query(pattern=r"^[a-z0-9._-]{0,63}$")] = "",
    limit: Limit = 1000,
    after: Annotated[str | None, Query(pattern=rf"^{PATTERN}$")] = None,
) -> AliasList:
    """List the aliases that the key sees by name, the base model's too, with their versions.

    `prefix` is what their names begin with.
    """
    wanted = WantedAliases(key.aliases, prefix, after, limit + 1)
    found = behind.registry.overview(key.tenant, wanted)
    told = [AliasSummaryOut.summary(alias, versions) for alias, versions in found]
    return AliasList(**paged(told, limit, "alias"))


def get_adapter(alias: AliasName, key: Reader, behind: Behind) -> AliasDetailOut:
    """Tell all of an alias: its versions, their records, and the workers that have them."""
    check_sees(key, alias)
    return AliasDetailOut.full(behind.registry.describe(key.tenant, alias))


def register(
    alias: AliasName,
    key: Publisher,
    behind: Behind,
    source: Annotated[Source, Depends(_source)],
    response: Response,
) -> VersionOut:
    """Register the alias's next version: 201, or 200 where it has these very files already.

    The version is checked on arrival, and then loaded and verified by the controller; it can be
    promoted once its state is `candidate`.
    """
    added = behind.registry.add(key.tenant, alias, source, actor_of(key))
    response.status_code = 201 if added.created else 200
    publish(behind)
    return VersionOut.of(added.version)


def promote(alias: AliasName, body: PromoteRequest, key: Admin, behind: Behind) -> AliasOut:
    """Make a verified version the stable one; the one before stays warm. Ends a rollout."""
    check_sees(key, alias)
    moved = behind.registry.promote(key.tenant, alias, body.version, actor_of(key))
    publish(behind)
    return AliasOut.of(moved)


def rollback(alias: AliasName, key: Admin, behind: Behind) -> AliasOut:
    """Stop the rollout under way; where there is none, go back to the previous version."""
    check_sees(key, alias)
    moved = behind.registry.rollback(key.tenant, alias, actor_of(key))
    publish(behind)
    return AliasOut.of(moved)


def rollout(alias: AliasName, body: RolloutRequest, key: Admin, behind: Behind) -> AliasOut:
    """Send the first share of the callers to a verified candidate, or copies of calls before that.

    With several steps the controller goes on by itself: it takes the next share once the candidate
    has answered often enough, promotes at 1.0 when the candidate was shown to be no worse, and
    rolls back when it was shown to be worse. With one step nothing moves until the next call. With
    `shadow` nobody gets an answer of it until the copies have shown nothing against it.
    """
    check_sees(key, alias)
    settings = behind.settings.rollout
    detail: dict[str, Any] = {"steps": body.steps}
    if len(body.steps) > 1:
        if not behind.settings.feedback.keeps(alias):
            raise Conflict(
                f"No answers of {alias!r} are kept (feedback.capture), so its steps could not be"
                " judged: give one step, and the next one by another call."
            )
        promotes = body.steps[-1] == 1
        found, model = behind.registry.describe(key.tenant, alias), f"{alias}@{body.version}"
        detail = {
            **settings.plan(),
            **detail,
            "promotes": promotes,
            "calibration": calibration(behind.database, key.tenant, found, model),
        }
    weight, share = body.steps[0], 0.0
    if body.shadow is not None:
        asked = body.shadow.model_dump(exclude_none=True)
        detail = shadowed(detail, settings, {**settings.shadow.plan(), **asked})
        weight, share = 0.0, float(detail["shadow"]["share"])
    moved = behind.registry.set_rollout(
        key.tenant, alias, body.version, weight, actor_of(key), detail, shadow=share
    )
    publish(behind)
    return AliasOut.of(moved)


def retire(
    alias: AliasName,
    number: VersionNumber,
    key: Admin,
    behind: Behind,
    body: RetireRequest | None = None,
) -> VersionOut:
    """End a version that no alias leads to: it gets no more calls, then workers drop it."""
    check_sees(key, alias)
    reason = body.reason if body is not None else ""
    version = behind.registry.retire(key.tenant, alias, number, actor_of(key), reason)
    publish(behind)
    return VersionOut.of(version)


def pin(
    alias: AliasName, number: VersionNumber, body: PinRequest, key: Admin, behind: Behind
) -> VersionSummaryOut:
    """Keep a version on so many workers, whatever else is called; again replaces the number."""
    return _pin(alias, number, body.replicas, key, behind)


def unpin(alias: AliasName, number: VersionNumber, key: Admin, behind: Behind) -> VersionSummaryOut:
    """Let a version make room for others again, once they are called more recently."""
    return _pin(alias, number, None, key, behind)


def _pin(
    alias: str, number: int, replicas: int | None, key: Key, behind: Backstage
) -> VersionSummaryOut:
    check_sees(key, alias)
    version = behind.registry.pin(key.tenant, alias, number, replicas, actor_of(key))
    publish(behind)
    return VersionSummaryOut.of(version)
