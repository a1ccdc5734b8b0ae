"""Publishing: a version that the gate has passed goes to its first callers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import RowMapping

from feedback.reports import Reports
from gateway.admin.access import (
    PUBLISHERS,
    Backstage,
    actor_of,
    backstage,
    check_sees,
    needs,
    publish,
)
from gateway.admin.jobs_schemas import PublishRequest
from gateway.admin.schemas import AliasOut, ErrorBody
from gateway.errors import Conflict
from gateway.registry.snapshot import Alias, Key

Publisher = Annotated[Key, Depends(needs(*PUBLISHERS))]
Behind = Annotated[Backstage, Depends(backstage)]
BASE = "base"


def create_router() -> APIRouter:
    """Make the route."""
    router = APIRouter(prefix="/adapters", tags=["adapters"])
    router.add_api_route(
        "/{alias}/publish",
        publish_version,
        methods=["POST"],
        responses={404: {"model": ErrorBody}, 409: {"model": ErrorBody}},
    )
    return router


def publish_version(alias: str, body: PublishRequest, key: Publisher, behind: Behind) -> AliasOut:
    """Start the canary of a version that has passed the gate against what is stable now.

    The controller drives it from there. Where the alias leads nowhere yet, the version is promoted
    at once. A version that is candidate or stable already is left as it is.
    """
    check_sees(key, alias)
    now = behind.registry.alias(key.tenant, alias)
    if body.version in (_number(now, "candidate"), _number(now, "stable")):
        return AliasOut.of(now)
    report = _passed(Reports(behind.database), key.tenant, now, f"{alias}@{body.version}")
    if now.stable is None:
        moved = behind.registry.promote(key.tenant, alias, body.version, actor_of(key))
    else:
        settings = behind.settings.rollout
        detail = {
            "driven": True,
            "answers": settings.answers,
            "gate_id": report["id"],
            "job_id": body.job_id,
        }
        moved = behind.registry.set_rollout(
            key.tenant, alias, body.version, settings.weight, actor_of(key), detail
        )
    publish(behind)
    return AliasOut.of(moved)


def _passed(reports: Reports, tenant: str, alias: Alias, candidate: str) -> RowMapping:
    """Give the report that allows it. Raises `Conflict` where there is none."""
    stable = alias.stable
    against = BASE if stable is None or stable.is_base else stable.model
    report = reports.verdict(tenant, alias.name, candidate, against)
    if report is None:
        raise Conflict(f"There is no gate report on {candidate} against {against}: run the gate.")
    if report["verdict"] != "PASS":
        raise Conflict(
            f"The gate says {report['verdict']} on {candidate} against {against}"
            f" (report {report['id']}): only PASS is published. An admin may promote it by hand."
        )
    return report


def _number(alias: Alias, role: str) -> int | None:
    version = getattr(alias, role)
    return version.number if version is not None else None
