"""What trainers measured: cached evaluations, and the gate's reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, select

from feedback.db import reading, server_time, writing
from feedback.erasure import golden, tombstones
from feedback.errors import Conflicting, NotKnown
from feedback.repository import insert_once
from feedback.tables import EVALUATIONS, GATE_REPORTS


class Reports:
    """Every operation is one transaction and blocks: use threads. Any raises `StoreAway`."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[Connection], float] = server_time
    ) -> None:
        self._engine = engine
        self._clock = clock

    def put_evaluation(self, tenant: str, digest: str, body: Mapping[str, Any]) -> None:
        """Keep an evaluation under the digest of what it follows from; the first one stays.

        Raises `Conflicting` where its golden set has lost items since.
        """
        with writing(self._engine) as connection:
            _check_golden(connection, tenant, body)
            now = self._clock(connection)
            row = {"tenant": tenant, "digest": digest, "body": dict(body), "created_at": now}
            insert_once(connection, EVALUATIONS, [row], EVALUATIONS.c.digest)

    def get_evaluation(self, tenant: str, digest: str) -> dict[str, Any]:
        """Give an evaluation. Raises `NotKnown`."""
        query = select(EVALUATIONS.c.body).where(
            EVALUATIONS.c.tenant == tenant, EVALUATIONS.c.digest == digest
        )
        with reading(self._engine) as connection:
            body = connection.scalar(query)
        if body is None:
            raise NotKnown(f"There is no evaluation {digest[:12]}.")
        return dict(body)

    def add_gate(self, tenant: str, values: Mapping[str, Any]) -> RowMapping:
        """Keep a gate's report. Raises `Conflicting` as `put_evaluation`."""
        with writing(self._engine) as connection:
            _check_golden(connection, tenant, values["report"])
            row = {**values, "tenant": tenant, "created_at": self._clock(connection)}
            statement = insert(GATE_REPORTS).values(**row).returning(GATE_REPORTS)
            return connection.execute(statement).mappings().one()

    def get_gate(self, tenant: str, gate_id: int) -> RowMapping:
        """Give a gate's report. Raises `NotKnown`."""
        query = select(GATE_REPORTS).where(
            GATE_REPORTS.c.tenant == tenant, GATE_REPORTS.c.id == gate_id
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).mappings().one_or_none()
        if found is None:
            raise NotKnown(f"There is no gate report {gate_id}.")
        return found

    def gates(
        self,
        tenant: str,
        alias: str | None,
        limit: int = 100,
        *,
        aliases: Collection[str] | None = None,
        after: int | None = None,
    ) -> Sequence[RowMapping]:
        """Give gates' reports, the newest first, from beyond `after`; only those of `aliases`."""
        query = select(GATE_REPORTS).where(GATE_REPORTS.c.tenant == tenant)
        if aliases is not None:
            query = query.where(GATE_REPORTS.c.alias.in_(aliases))
        if after is not None:
            query = query.where(GATE_REPORTS.c.id < after)
        if alias is not None:
            query = query.where(GATE_REPORTS.c.alias == alias)
        with reading(self._engine) as connection:
            ordered = query.order_by(GATE_REPORTS.c.id.desc()).limit(limit)
            return connection.execute(ordered).mappings().all()

    def verdict(self, tenant: str, alias: str, candidate: str, against: str) -> RowMapping | None:
        """Give the newest report on a candidate against another version."""
        query = (
            select(GATE_REPORTS)
            .where(
                GATE_REPORTS.c.tenant == tenant,
                GATE_REPORTS.c.alias == alias,
                GATE_REPORTS.c.candidate == candidate,
                GATE_REPORTS.c.against == against,
            )
            .order_by(GATE_REPORTS.c.id.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            return connection.execute(query).mappings().first()


def _check_golden(connection: Connection, tenant: str, body: Mapping[str, Any]) -> None:
    tombstones.share(connection)
    if golden.has_erased(connection, tenant, body.get("golden_digest")):
        raise Conflicting("Items of this golden set were erased meanwhile: evaluate anew.")
