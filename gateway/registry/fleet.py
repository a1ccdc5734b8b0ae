"""Workers, what was seen on them, gateways, and leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import and_, func, select

from gateway.registry import lifecycle, repository, writes
from gateway.registry.errors import VersionNotFound
from gateway.registry.records import LIVE_GATEWAY_S, Demand, GatewayBeat, WorkerStatus
from gateway.registry.snapshot import Placement, Version, WorkerSpec
from gateway.registry.store import Store
from gateway.registry.tables import GATEWAYS, PLACEMENTS, USES, WORKERS

_FORGET_GATEWAY_S = 3600.0


class Fleet(Store):
    """What the registry knows of the processes around it."""

    # -- workers ---------------------------------------------------------------------------------

    def upsert_worker(self, spec: WorkerSpec) -> None:
        """Make a worker known, or give a known one its present address, kind and options."""
        with self._change() as connection:
            query = select(WORKERS).where(WORKERS.c.name == spec.name)
            row = connection.execute(query).one_or_none()
            if row is not None and repository.spec_of(row) == spec:
                return
            writes.put_worker(connection, spec)
            writes.bump_revision(connection)

    def remove_worker(self, name: str) -> bool:
        """Forget a worker and its placements; whether it was known."""
        with self._change() as connection:
            writes.delete_placements(connection, PLACEMENTS.c.worker == name)
            known = writes.delete_worker(connection, name)
            if known:
                writes.bump_revision(connection)
            return known

    def record_worker(
        self,
        name: str,
        *,
        boot: str,
        healthy: bool,
        detail: str = "",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what was seen of a worker just now.

        Gateways are told only of another boot or health: metrics change at every look. A worker
        that is not healthy keeps the time when it was last seen.
        """
        with self._change() as connection:
            query = select(WORKERS).where(WORKERS.c.name == name)
            row = connection.execute(query).one_or_none()
            if row is None:
                return
            seen_at = self._clock(connection) if healthy else row.seen_at
            values = {"boot": boot, "healthy": healthy, "detail": detail, "seen_at": seen_at}
            writes.update_worker(connection, name, {**values, "metrics": dict(metrics or {})})
            if (row.boot, row.healthy) != (boot, healthy):
                writes.bump_revision(connection)

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Give all workers as last seen, by name."""
        with self._read() as connection:
            rows = connection.execute(select(WORKERS).order_by(WORKERS.c.name))
            return tuple(repository.worker_of(row) for row in rows)

    # -- placements ------------------------------------------------------------------------------

    def record_placement(self, placement: Placement) -> None:
        """Note what a worker was found to answer with. Raises `VersionNotFound`."""
        where = (
            PLACEMENTS.c.worker == placement.worker,
            PLACEMENTS.c.version_id == placement.version_id,
        )
        with self._change() as connection:
            if repository.find_version_by_id(connection, placement.version_id) is None:
                raise VersionNotFound
            row = connection.execute(select(PLACEMENTS).where(*where)).one_or_none()
            before = repository.placement_of(row) if row is not None else None
            writes.put_placement(connection, placement, self._clock(connection))
            if before != placement:
                writes.bump_revision(connection, placements_only=True)

    def drop_placements(
        self, worker: str, version_ids: Iterable[int] | None = None, *, boot: str | None = None
    ) -> bool:
        """Forget what was seen on a worker; whether there was anything.

        Without `version_ids` all of it; with `boot`, only what was seen in another boot than that.
        """
        conditions = [PLACEMENTS.c.worker == worker]
        if version_ids is not None:
            conditions.append(PLACEMENTS.c.version_id.in_(list(version_ids)))
        if boot is not None:
            conditions.append(PLACEMENTS.c.boot != boot)
        with self._change() as connection:
            dropped = writes.delete_placements(connection, *conditions)
            if dropped:
                writes.bump_revision(connection, placements_only=True)
            return dropped

    # -- what placement goes by ------------------------------------------------------------------

    def pin(
        self, tenant: str, alias: str, number: int, replicas: int | None, actor: str = ""
    ) -> Version:
        """Keep a version on so many workers whatever is called; None lets it make room again.

        Raises `VersionNotFound`, and `Conflict` for the base model and for versions that ended.
        """
        with self._change() as connection:
            version = lifecycle.need_version(connection, tenant, alias, number)
            now = self._clock(connection)
            lifecycle.pin(connection, version, replicas, actor=actor, now=now)
            return lifecycle.need_version_by_id(connection, version.id)

    def pulse(self) -> tuple[int, float]:
        """Give the revision and the time of the newest use: a cheap look for news."""
        with self._read() as connection:
            newest = connection.scalar(select(func.max(USES.c.used_at)))
            return repository.read_revision(connection), newest or 0.0

    def demand(self) -> Demand:
        """Give what is in demand, and how old the proofs are."""
        proofs = select(PLACEMENTS.c.worker, PLACEMENTS.c.version_id, PLACEMENTS.c.checked_at)
        with self._read() as connection:
            uses = connection.execute(select(USES.c.version_id, USES.c.used_at))
            used_at = {row.version_id: row.used_at for row in uses}
            found = connection.execute(proofs)
            checked_at = {(row.worker, row.version_id): row.checked_at for row in found}
            return Demand(self._clock(connection), used_at, checked_at)

    # -- gateways and two-phase unload -----------------------------------------------------------

    def heartbeat(
        self,
        gateway_id: str,
        revision: int,
        busy: Iterable[str] = (),
        host: str = "",
        used: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """Say that a gateway lives, what it routes by, where its calls are, and what was called.

        `busy` is in the words of `in_flight`; `used` gives by version id how many seconds ago it
        was last called.

        A gateway whose heartbeats have failed for `LIVE_GATEWAY_S` counts as dead: it must send
        no call to an adapter before it has loaded a fresh snapshot.
        """
        with self._write() as connection:
            now = self._clock(connection)
            values = {"host": host, "revision": revision, "busy": sorted(set(busy))}
            writes.put_gateway(connection, gateway_id, {**values, "heartbeat_at": now})
            writes.delete_gateways(connection, GATEWAYS.c.heartbeat_at < now - _FORGET_GATEWAY_S)
            writes.put_uses(connection, {version: now - age for version, age in used.items()})

    def remove_gateway(self, gateway_id: str) -> None:
        """Forget a gateway that has stopped with no call in flight."""
        with self._write() as connection:
            writes.delete_gateways(connection, GATEWAYS.c.id == gateway_id)

    def live_gateways(self, max_age_s: float = LIVE_GATEWAY_S) -> tuple[GatewayBeat, ...]:
        """Give the gateways whose heartbeat is younger than that.

        One that lies as far ahead is from before the clock was set back.
        """
        with self._read() as connection:
            now, beat_at = self._clock(connection), GATEWAYS.c.heartbeat_at
            young = and_(beat_at > now - max_age_s, beat_at < now + max_age_s)
            query = select(GATEWAYS).where(young)
            rows = connection.execute(query.order_by(GATEWAYS.c.id))
            return tuple(repository.beat_of(row) for row in rows)

    # -- leases ----------------------------------------------------------------------------------

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease for `ttl_s` seconds; False while another holds it.

        One that ends later than in twice that time is from before the clock was set back.
        """
        with self._write() as connection:
            now = self._clock(connection)
            ends, never = now + ttl_s, now + 2 * ttl_s
            return writes.take_lease(connection, name, holder, ends, now, never)

    def release_lease(self, name: str, holder: str) -> bool:
        """Give a lease back before it expires; whether `holder` had it."""
        with self._write() as connection:
            return writes.drop_lease(connection, name, holder)
