"""Erasing people's rows, and which versions were trained on them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from feedback.erasure.service import Eraser, Order
from feedback.erasure.subjects import Subjects
from gateway.admin.access import ADMINS, Backstage, actor_of, backstage, needs
from gateway.admin.erasures_schemas import (
    ErasureList,
    ErasureOut,
    ErasureRecordOut,
    ErasureRequest,
)
from gateway.admin.schemas import Limit, paged
from gateway.errors import PermissionDenied
from gateway.registry.snapshot import Key

Admin = Annotated[Key, Depends(needs(*ADMINS))]
Behind = Annotated[Backstage, Depends(backstage)]


def create_router() -> APIRouter:
    """Make the routes under `/erasures`."""
    router = APIRouter(prefix="/erasures", tags=["erasures"])
    router.add_api_route("", erase, methods=["POST"])
    router.add_api_route("", list_erasures, methods=["GET"])
    return router


def erase(body: ErasureRequest, key: Admin, behind: Behind) -> ErasureOut:
    """Erase people's rows in the whole tenant; a dry run only tells what would be erased.

    The same again finds what is left, and tells the same data sets and versions.
    """
    _check_whole(key)
    pseudonyms = {behind.scrubber.pseudonym(key.tenant, user) for user in body.users}
    subjects = Subjects(
        frozenset(pseudonyms),
        frozenset(body.response_ids),
        frozenset(body.keys),
        frozenset(body.tickets),
    )
    order = Order(key.tenant, subjects, actor_of(key), body.reference, body.dry_run)
    found = Eraser(behind.database).erase(order)
    trained = {one.digest for one in found.datasets if one.rows}
    made = {(run.alias, run.version) for run in found.runs if run.version is not None}
    versions = behind.registry.trained_on(key.tenant, trained, made)
    return ErasureOut.of(found, versions, body.dry_run)


def list_erasures(
    key: Admin,
    behind: Behind,
    limit: Limit = 100,
    after: Annotated[str | None, Query(max_length=100, pattern="^[0-9a-z-]+$")] = None,
) -> ErasureList:
    """Give the record of erasures, the newest first. It holds no text of anybody's."""
    _check_whole(key)
    found = Eraser(behind.database).record(key.tenant, limit + 1, after)
    return ErasureList(**paged([ErasureRecordOut.of(lines) for lines in found], limit))


def _check_whole(key: Key) -> None:
    """Refuse a key for some aliases: an erasure that leaves some out would be none."""
    if key.aliases is not None:
        raise PermissionDenied("An erasure takes an admin key that is for all aliases.")
