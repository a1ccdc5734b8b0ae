"""Publishing: a version that the gate has passed goes to its first callers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import Engine, RowMapping

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
from gateway.admin.adapters_schemas import AliasOut
from gateway.admin.jobs_schemas import PublishRequest
from gateway.admin.schemas import ErrorBody
from gateway.errors import Conflict
from gateway.registry.records import AliasDetail
from gateway.registry.snapshot import Alias, Key
from gateway.rollout.shadow import shadowed
from gateway.settings import GatewaySettings

Publisher = Annotated[Key, Depends(needs(*PUBLISHERS))]
Behind = Annotated[Backstage, Depends(backstage)]


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

    Where configured, copies of calls come first. The controller drives it from there. Where the
    alias leads nowhere yet, the version is promoted at once. Again for a version that is candidate
    or stable, or by a job that has published it, changes nothing. A version that was rolled back is
    not published again.
    """
    check_sees(key, alias)
    found = behind.registry.describe(key.tenant, alias)
    now, model = found.alias, f"{alias}@{body.version}"
    if _is_done(found, body):
        return AliasOut.of(now)
    _check_free(found, body.version, behind.settings)
    report = _passed(Reports(behind.database), key.tenant, found, model)
    detail = {
        "gate_id": report["id"],
        "job_id": body.job_id,
        "calibration": report["report"].get("calibration"),
    }
    if now.stable is None:
        moved = behind.registry.promote(key.tenant, alias, body.version, actor_of(key), detail)
    else:
        moved = _roll_out(behind, key, now, body.version, detail)
    publish(behind)
    return AliasOut.of(moved)


def _roll_out(
    behind: Backstage, key: Key, alias: Alias, number: int, detail: dict[str, Any]
) -> Alias:
    """Begin the canary, or the shadow before it where that is configured."""
    settings = behind.settings.rollout
    detail, weight, share = {**settings.plan(), **detail}, settings.steps[0], 0.0
    if settings.shadow.publish:
        detail = shadowed(detail, settings, settings.shadow.plan())
        weight, share = 0.0, settings.shadow.share
    return behind.registry.set_rollout(
        key.tenant, alias.name, number, weight, actor_of(key), detail, shadow=share
    )


def _is_done(found: AliasDetail, body: PublishRequest) -> bool:
    """Whether the version serves, or this job has published it, whatever came of it since then."""
    leads_to = (found.alias.candidate, found.alias.stable)
    if any(version is not None and version.number == body.version for version in leads_to):
        return True
    return body.job_id is not None and any(
        move.to_version == body.version and move.detail.get("job_id") == body.job_id
        for move in found.moves
    )


def _check_free(found: AliasDetail, number: int, settings: GatewaySettings) -> None:
    """Leave what people decided as it is. Raises `Conflict`."""
    alias = found.alias
    if any(move.kind == "rollback" and move.from_version == number for move in found.moves):
        raise Conflict(
            f"{alias.name}@{number} was rolled back before: only an admin brings it back, by"
            " rollout or promote."
        )
    if alias.candidate is not None and not found.moves[-1].detail.get("gate_id"):
        raise Conflict(
            f"{alias.candidate.model} is being rolled out by hand: promote it or roll it back"
            " first."
        )
    if alias.stable is not None and not settings.feedback.keeps(alias.name):
        raise Conflict(
            f"No answers of {alias.name!r} are kept (feedback.capture), so a canary could not be"
            " judged: an admin may roll it out by hand."
        )


def _passed(reports: Reports, tenant: str, found: AliasDetail, candidate: str) -> RowMapping:
    """Give the report that allows it. Raises `Conflict` where there is none."""
    against = _against(found)
    report = reports.verdict(tenant, found.alias.name, candidate, against)
    if report is None:
        raise Conflict(f"There is no gate report on {candidate} against {against}: run the gate.")
    if report["verdict"] != "PASS":
        raise Conflict(
            f"The gate says {report['verdict']} on {candidate} against {against}"
            f" (report {report['id']}): only PASS is published. An admin may promote it by hand."
        )
    return report


def calibration(database: Engine, tenant: str, found: AliasDetail, candidate: str) -> Any:
    """Give what the newest gate report says of the risk of both versions' answers, if one does."""
    report = Reports(database).verdict(tenant, found.alias.name, candidate, _against(found))
    return report["report"].get("calibration") if report is not None else None


def _against(found: AliasDetail) -> str:
    stable = found.alias.stable
    return found.base if stable is None or stable.is_base else stable.model
