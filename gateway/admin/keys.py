"""API keys of the caller's tenant."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from feedback.usage import tokens_of
from gateway.admin.access import ADMINS, Backstage, backstage, needs, publish
from gateway.admin.keys_schemas import (
    BudgetOut,
    KeyChange,
    KeyDetailOut,
    KeyList,
    KeyOut,
    KeyRequest,
    NewKeyOut,
    Role,
    RotateRequest,
)
from gateway.admin.schemas import MAX_INT, AfterId, ErrorBody, Limit, Line, paged
from gateway.errors import Conflict, InvalidRequest, PermissionDenied
from gateway.limiting import running_period
from gateway.registry.records import KeyState, WantedKeys
from gateway.registry.snapshot import Key

Behind = Annotated[Backstage, Depends(backstage)]
_YEAR_9999 = 253_370_764_800
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=255, pattern=r"^[\x21-\x7e]+$")
]
KeyId = Annotated[int, Path(ge=1, le=MAX_INT)]


async def _key_keeper(key: Annotated[Key, Depends(needs(*ADMINS))]) -> Key:
    """Give an admin's key that covers every alias: another could make itself a wider one."""
    if key.aliases is not None:
        raise PermissionDenied("This key covers some aliases only, so it may not manage keys.")
    return key


KeyKeeper = Annotated[Key, Depends(_key_keeper)]


def create_router() -> APIRouter:
    """Make the routes under `/keys`."""
    router = APIRouter(prefix="/keys", tags=["keys"])
    missing: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
    }
    router.add_api_route("", list_keys, methods=["GET"])
    taken: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody}}
    router.add_api_route("", create_key, methods=["POST"], status_code=201, responses=taken)
    router.add_api_route("/{key_id}", revoke_key, methods=["DELETE"], responses=missing)
    router.add_api_route("/{key_id}", get_key, methods=["GET"], responses=missing)
    router.add_api_route("/{key_id}", change_key, methods=["PATCH"], responses=missing)
    router.add_api_route(
        "/{key_id}/rotate", rotate_key, methods=["POST"], status_code=201, responses=missing
    )
    return router


def list_keys(
    key: KeyKeeper,
    behind: Behind,
    owner: Annotated[Line | None, Query()] = None,
    role: Role | None = None,
    state: KeyState | None = None,
    limit: Limit = 1000,
    after: AfterId = None,
) -> KeyList:
    """List the tenant's keys, the oldest first; secrets are not kept."""
    wanted = WantedKeys(owner, role, state, after, limit + 1)
    found = behind.registry.list_keys(key.tenant, wanted)
    return KeyList(**paged([KeyOut.of(info) for info in found], limit))


def create_key(
    body: KeyRequest,
    key: KeyKeeper,
    behind: Behind,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> NewKeyOut:
    """Make a key in the caller's tenant. Its secret is in this answer and nowhere else.

    The same `Idempotency-Key` again makes no second one: 409 names the key that was made.
    """
    _check_expiry(body.expires_at)
    secret, made = behind.registry.create_key(
        tenant=key.tenant,
        owner=body.owner,
        role=body.role,
        aliases=body.aliases,
        purpose=body.purpose,
        expires_at=body.expires_at,
        limits=body.limits,
        idempotency_key=idempotency_key,
    )
    publish(behind)
    response.headers["cache-control"] = "no-store"
    return NewKeyOut.of(secret, made)


def rotate_key(
    key_id: KeyId, body: RotateRequest, key: KeyKeeper, behind: Behind, response: Response
) -> NewKeyOut:
    """Make a key that may do the same; the old one expires. Both count on one account."""
    secret, made = behind.registry.rotate_key(key.tenant, key_id, body.overlap_s)
    publish(behind)
    response.headers["cache-control"] = "no-store"
    return NewKeyOut.of(secret, made)


def get_key(key_id: KeyId, key: KeyKeeper, behind: Behind) -> KeyDetailOut:
    """Tell of a key, and what is left of its account's budget."""
    info = behind.registry.get_key(key.tenant, key_id)
    limits, budget = info.key.limits, None
    if limits.token_budget is not None:
        since, ends_at = running_period(limits.budget_period)
        account = behind.registry.keys_of_account(info.key.account)
        used = tokens_of(behind.database, account, since)
        budget = BudgetOut.of(limits.token_budget, used, since, ends_at)
    return KeyDetailOut(**KeyOut.of(info).model_dump(), budget=budget)


def change_key(key_id: KeyId, body: KeyChange, key: KeyKeeper, behind: Behind) -> KeyOut:
    """Change what is given, for calls that begin from now on; null takes a limit away.

    All but `expires_at` holds for the keys that it was rotated with too.
    """
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        raise InvalidRequest("Give the fields to change: null takes a limit away.")
    _check_expiry(body.expires_at)
    account = behind.registry.get_key(key.tenant, key_id).key.account
    if changes.get("aliases") is not None and account == key.account:
        raise Conflict("This key signs this very call: take its aliases with another one.")
    info = behind.registry.change_key(key.tenant, key_id, changes)
    publish(behind)
    return KeyOut.of(info)


def _check_expiry(expires_at: float | None) -> None:
    if expires_at is not None and expires_at <= time.time():
        raise InvalidRequest("expires_at lies in the past.", param="expires_at")
    if expires_at is not None and expires_at > _YEAR_9999:
        raise InvalidRequest(
            "expires_at is in seconds since the epoch: in milliseconds it would never come.",
            param="expires_at",
        )


def revoke_key(key_id: KeyId, key: KeyKeeper, behind: Behind) -> KeyOut:
    """End a key of the tenant for good."""
    if key_id == key.id:
        raise Conflict("This key signs this very call: revoke it with another one.")
    info = behind.registry.revoke_key(key.tenant, key_id)
    publish(behind)
    return KeyOut.of(info)
