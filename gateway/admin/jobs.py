"""Refreshes as jobs, and what trainers measured."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from feedback.data.service import DataStore
from feedback.errors import NotKnown
from feedback.jobs import Jobs
from feedback.reports import Reports
from gateway.admin.access import PUBLISHERS, Backstage, backstage, check_sees, needs, sees
from gateway.admin.jobs_schemas import (
    BeatRequest,
    CancelRequest,
    ClaimRequest,
    FinishRequest,
    GateList,
    GateOut,
    GateRequest,
    HolderRequest,
    JobList,
    JobOut,
    RefreshRequest,
    StageRequest,
    State,
)
from gateway.admin.schemas import MAX_INT, AfterId, ErrorBody, Limit, Line, paged
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.registry.errors import AliasNotFound
from gateway.registry.snapshot import Key

Trainer = Annotated[Key, Depends(needs(*PUBLISHERS))]
Behind = Annotated[Backstage, Depends(backstage)]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_JOB_ID = "^[0-9a-z-]+$"
MAX_EVALUATION = 8 * 1024 * 1024


def _jobs(behind: Behind) -> Jobs:
    return Jobs(behind.database)


def _reports(behind: Behind) -> Reports:
    return Reports(behind.database)


JobStore = Annotated[Jobs, Depends(_jobs)]


def _job_id(
    job_id: Annotated[str, Path(max_length=100, pattern=_JOB_ID)],
    key: Trainer,
    jobs: JobStore,
) -> str:
    """Give the id of a job; one of an alias that the key does not cover is not known to it."""
    if key.aliases is not None and not sees(key, jobs.get(key.tenant, job_id)["alias"]):
        raise NotKnown(f"There is no job {job_id!r}.", param="id")
    return job_id


JobId = Annotated[str, Depends(_job_id)]
Filter = Annotated[Line | None, Query()]
ReportStore = Annotated[Reports, Depends(_reports)]


def create_router() -> APIRouter:
    """Make the routes under `/refreshes`, `/jobs`, `/evaluations` and `/gates`."""
    router = APIRouter(tags=["jobs"])
    refused: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
    }
    router.add_api_route(
        "/refreshes", refresh, methods=["POST"], status_code=201, responses=refused
    )
    router.add_api_route("/jobs", list_jobs, methods=["GET"])
    router.add_api_route(
        "/jobs/claim", claim, methods=["POST"], responses={204: {"description": "nothing waits"}}
    )
    router.add_api_route("/jobs/{job_id}", get_job, methods=["GET"], responses=refused)
    for name, endpoint in (
        ("heartbeat", heartbeat),
        ("stages", record),
        ("finish", finish),
        ("release", release),
        ("cancel", cancel),
    ):
        path = f"/jobs/{{job_id}}/{name}"
        router.add_api_route(path, endpoint, methods=["POST"], responses=refused)
    router.add_api_route("/evaluations/{digest}", put_evaluation, methods=["PUT"])
    router.add_api_route(
        "/evaluations/{digest}", get_evaluation, methods=["GET"], responses=refused
    )
    router.add_api_route("/gates", add_gate, methods=["POST"], status_code=201)
    router.add_api_route("/gates", list_gates, methods=["GET"])
    router.add_api_route("/gates/{gate_id}", get_gate, methods=["GET"], responses=refused)
    return router


def refresh(body: RefreshRequest, key: Trainer, behind: Behind, jobs: JobStore) -> JobOut:
    """Queue a refresh of an alias, for a trainer to claim."""
    check_sees(key, body.alias)
    known = behind.registry.has_alias(key.tenant, body.alias)
    if not known and not DataStore(behind.database).knows(key.tenant, body.alias):
        raise AliasNotFound(
            f"There is no alias {body.alias!r}, and nothing was imported for it:"
            f" import rows first (POST /admin/v1/imports/{body.alias})."
        )
    return JobOut.of(jobs.add(key.tenant, "refresh", body.alias, body.parameters))


def list_jobs(
    key: Trainer,
    jobs: JobStore,
    alias: Filter = None,
    state: State | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(max_length=100, pattern=_JOB_ID)] = None,
) -> JobList:
    """List jobs, the newest first."""
    found = jobs.find(key.tenant, alias, state, limit + 1, aliases=key.aliases, after=after)
    return JobList(**paged([JobOut.of(job) for job in found], limit))


def get_job(job_id: JobId, key: Trainer, jobs: JobStore) -> JobOut:
    """Tell of a job."""
    return JobOut.of(jobs.get(key.tenant, job_id))


def claim(body: ClaimRequest, key: Trainer, jobs: JobStore) -> Any:
    """Take the oldest job that waits, or whose trainer is gone; 204 where there is none."""
    job = jobs.claim(key.tenant, body.holder, body.kinds, body.job_id, aliases=key.aliases)
    return JobOut.of(job) if job is not None else Response(status_code=204)


def heartbeat(job_id: JobId, body: BeatRequest, key: Trainer, jobs: JobStore) -> JobOut:
    """Renew the lease on a job."""
    return JobOut.of(jobs.beat(key.tenant, job_id, body.holder, body.stage))


def record(job_id: JobId, body: StageRequest, key: Trainer, jobs: JobStore) -> JobOut:
    """Record what a stage made; the first record of a stage stays."""
    return JobOut.of(jobs.record(key.tenant, job_id, body.holder, body.stage, body.made))


def finish(job_id: JobId, body: FinishRequest, key: Trainer, jobs: JobStore) -> JobOut:
    """End a job for good."""
    ended = jobs.finish(key.tenant, job_id, body.holder, body.state, body.result, body.reason)
    return JobOut.of(ended)


def release(job_id: JobId, body: HolderRequest, key: Trainer, jobs: JobStore) -> JobOut:
    """Give a job back to the queue."""
    return JobOut.of(jobs.release(key.tenant, job_id, body.holder))


def cancel(job_id: JobId, body: CancelRequest, key: Trainer, jobs: JobStore) -> JobOut:
    """Cancel a job that waits or runs."""
    return JobOut.of(jobs.cancel(key.tenant, job_id, body.reason))


async def _evaluation(request: Request, key: Trainer) -> dict[str, Any]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_EVALUATION:
            raise BodyTooLarge(f"An evaluation has at most {MAX_EVALUATION} bytes.")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body is not a JSON object.")
    return value


def put_evaluation(
    digest: Digest,
    key: Trainer,
    reports: ReportStore,
    value: Annotated[dict[str, Any], Depends(_evaluation)],
) -> dict[str, str]:
    """Keep a version's answers to a golden set; the first ones kept under a digest stay."""
    reports.put_evaluation(key.tenant, digest, value)
    return {"digest": digest}


def get_evaluation(digest: Digest, key: Trainer, reports: ReportStore) -> dict[str, Any]:
    """Give the answers that are kept under a digest."""
    return reports.get_evaluation(key.tenant, digest)


def add_gate(body: GateRequest, key: Trainer, reports: ReportStore) -> GateOut:
    """Keep a gate's report."""
    check_sees(key, body.alias)
    return GateOut.of(reports.add_gate(key.tenant, body.model_dump()))


def list_gates(
    key: Trainer,
    reports: ReportStore,
    alias: Filter = None,
    limit: Limit = 100,
    after: AfterId = None,
) -> GateList:
    """List gates' reports, the newest first."""
    found = reports.gates(key.tenant, alias, limit + 1, aliases=key.aliases, after=after)
    return GateList(**paged([GateOut.of(row) for row in found], limit))


def get_gate(
    gate_id: Annotated[int, Path(ge=1, le=MAX_INT)], key: Trainer, reports: ReportStore
) -> GateOut:
    """Give a gate's report."""
    found = reports.get_gate(key.tenant, gate_id)
    if not sees(key, found["alias"]):
        raise NotKnown(f"There is no gate report {gate_id}.")
    return GateOut.of(found)
