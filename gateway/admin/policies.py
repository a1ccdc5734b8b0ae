"""The guard policies that hold: what each says, for whom, and why a newer file is not taken."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from gateway.admin.access import ADMINS, Backstage, backstage, needs, sees
from gateway.admin.schemas import Told
from gateway.registry.snapshot import Key
from guardrails.policy import GuardRule

Behind = Annotated[Backstage, Depends(backstage)]
Admin = Annotated[Key, Depends(needs(*ADMINS))]


class PolicyOut(Told):
    """A policy; `of` is the alias or the key's id that it is for, null of the default one.

    `version` is the digest that records of answers name.
    """

    scope: Literal["default", "alias", "key"]
    of: str | None
    name: str
    version: str
    guards: list[GuardRule]


class PolicyList(Told):
    """The policies that this gateway judges by."""

    object: Literal["list"] = "list"
    error: str | None = Field(description="why the policy file as it is now was not taken over")
    data: list[PolicyOut]


def create_router() -> APIRouter:
    """Make the route `/policies`."""
    router = APIRouter(prefix="/policies", tags=["policies"])
    router.add_api_route("", list_policies, methods=["GET"])
    return router


def list_policies(key: Admin, behind: Behind) -> PolicyList:
    """List the default policy and those for the tenant's own aliases and keys.

    A key's goes before an alias's, and either takes the default's place whole.
    """
    book = behind.policies
    aliases = {a.name for a, _ in behind.registry.overview(key.tenant) if sees(key, a.name)}
    keys = {str(found.key.id) for found in behind.registry.list_keys(key.tenant)}
    mine: dict[str, Container[str | None]] = {"default": {None}, "alias": aliases, "key": keys}
    shown = [
        PolicyOut(
            scope=held.scope,
            of=held.of,
            name=held.policy.name,
            version=held.policy.version,
            guards=list(held.policy.guards),
        )
        for held in book.held()
        if held.of in mine[held.scope]
    ]
    return PolicyList(error=book.problem, data=shown)
