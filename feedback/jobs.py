"""Jobs for trainers: leased by one at a time, with a record of what each finished stage made."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping

from feedback import jobs_repository as repository
from feedback.db import reading, server_time, writing
from feedback.errors import Conflicting, NotKnown

LEASE_S = 30.0
"""Seconds after a trainer's last sign of life until another may take its job."""

JobState = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]
Job = RowMapping


class Jobs:
    """Every operation is one transaction and blocks: use threads. Any raises `StoreAway`."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[Connection], float] = server_time
    ) -> None:
        self._engine = engine
        self._clock = clock

    def add(self, tenant: str, kind: str, alias: str, parameters: Mapping[str, Any]) -> Job:
        """Queue a job. Raises `Conflicting` where one of its kind and alias waits or runs."""
        with writing(self._engine) as connection:
            repository.lock(connection)
            before = repository.unfinished(connection, tenant, kind, alias)
            if before is not None:
                raise Conflicting(
                    f"A {kind} of {alias!r} is {before['state']} already: job {before['id']}."
                )
            return self._insert(connection, tenant, kind, alias, "queued", parameters, None)

    def skip(
        self, tenant: str, kind: str, alias: str, reason: str, parameters: Mapping[str, Any]
    ) -> Job:
        """Record that a job was due and was not run, and why."""
        with writing(self._engine) as connection:
            return self._insert(connection, tenant, kind, alias, "skipped", parameters, reason)

    def get(self, tenant: str, job_id: str) -> Job:
        """Give a job. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            return _need(repository.get(connection, tenant, job_id), job_id)

    def find(
        self,
        tenant: str,
        alias: str | None,
        state: str | None,
        limit: int,
        *,
        aliases: Collection[str] | None = None,
        after: str | None = None,
    ) -> Sequence[RowMapping]:
        """Give jobs, the newest first, from beyond the job `after`; with `aliases`, of these only.

        Raises `Invalid` where there is no such job.
        """
        with reading(self._engine) as connection:
            return repository.find(connection, tenant, alias, state, limit, aliases, after)

    def claim(
        self,
        tenant: str,
        holder: str,
        kinds: Sequence[str],
        job_id: str | None = None,
        *,
        aliases: Collection[str] | None = None,
    ) -> Job | None:
        """Take the job that the holder has, else the oldest that waits or whose trainer is gone.

        With `aliases`, one of these only. None where there is nothing to take.
        """
        with writing(self._engine) as connection:
            now = self._clock(connection)
            wanted = repository.Wanted(tenant, holder, kinds, job_id, aliases)
            while True:
                found = repository.claimable(connection, wanted, now)
                if found is None:
                    return None
                values = {"state": "running", "lease_holder": holder, "lease_until": now + LEASE_S}
                # Another trainer may have taken it between the two statements.
                if repository.take(connection, found, holder, {**values, "updated_at": now}):
                    return repository.get(connection, tenant, found)

    def beat(self, tenant: str, job_id: str, holder: str, stage: str | None) -> Job:
        """Renew a lease, and note the stage. Raises `NotKnown`, `Conflicting`."""
        return self._change(tenant, job_id, holder, lambda job: {"stage": stage or job["stage"]})

    def record(
        self, tenant: str, job_id: str, holder: str, stage: str, made: Mapping[str, Any]
    ) -> Job:
        """Record what a stage made; the first record stays. Raises `NotKnown`, `Conflicting`."""
        return self._change(
            tenant,
            job_id,
            holder,
            lambda job: {"stages": {**job["stages"], stage: job["stages"].get(stage, dict(made))}},
        )

    def finish(
        self,
        tenant: str,
        job_id: str,
        holder: str,
        state: JobState,
        result: Mapping[str, Any] | None,
        reason: str | None,
    ) -> Job:
        """End a job for good; the same again is told the same. Raises as `record`."""
        values = {"state": state, "result": dict(result) if result is not None else None}
        with reading(self._engine) as connection:
            job = _need(repository.get(connection, tenant, job_id), job_id)
        if job["state"] == state and job["lease_holder"] == holder:
            return job
        return self._change(
            tenant, job_id, holder, lambda _: {**values, "reason": reason, "lease_until": None}
        )

    def release(self, tenant: str, job_id: str, holder: str) -> Job:
        """Give a job back, so that another trainer may go on at once. Raises as `record`."""
        values = {"state": "queued", "lease_holder": None, "lease_until": None}
        return self._change(tenant, job_id, holder, lambda _: values)

    def cancel(self, tenant: str, job_id: str, reason: str) -> Job:
        """End a job that waits or runs; its trainer learns so at its next sign of life."""
        with writing(self._engine) as connection:
            job = _need(repository.get(connection, tenant, job_id, lock=True), job_id)
            if job["state"] not in ("queued", "running"):
                raise Conflicting(f"Job {job_id} is {job['state']} already.")
            now = self._clock(connection)
            values = {"state": "cancelled", "reason": reason, "updated_at": now}
            return repository.change(connection, tenant, job_id, values)

    def _change(
        self, tenant: str, job_id: str, holder: str, values: Callable[[Job], Mapping[str, Any]]
    ) -> Job:
        """Change a job that the holder has, which renews its lease."""
        with writing(self._engine) as connection:
            job = _need(repository.get(connection, tenant, job_id, lock=True), job_id)
            if job["state"] != "running":
                raise Conflicting(f"Job {job_id} is {job['state']}.")
            if job["lease_holder"] != holder:
                raise Conflicting(f"Job {job_id} is {job['lease_holder']}'s now.")
            now = self._clock(connection)
            renewed = {"lease_until": now + LEASE_S, "updated_at": now}
            return repository.change(connection, tenant, job_id, {**renewed, **values(job)})

    def _insert(
        self,
        connection: Connection,
        tenant: str,
        kind: str,
        alias: str,
        state: JobState,
        parameters: Mapping[str, Any],
        reason: str | None,
    ) -> Job:
        now = self._clock(connection)
        job_id = f"job-{uuid.uuid4().hex[:16]}"
        values = {
            "id": job_id,
            "tenant": tenant,
            "kind": kind,
            "alias": alias,
            "state": state,
            "stages": {},
            "parameters": dict(parameters),
            "run_id": job_id,
            "reason": reason,
            "created_at": now,
            "updated_at": now,
        }
        repository.insert(connection, values)
        return _need(repository.get(connection, tenant, job_id), job_id)


def _need(found: RowMapping | None, job_id: str) -> RowMapping:
    if found is None:
        raise NotKnown(f"There is no job {job_id[:80]!r}.", param="id")
    return found
