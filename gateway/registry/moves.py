"""Where aliases lead: promote, roll back, roll out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from gateway.registry import details, lifecycle, repository
from gateway.registry.errors import AliasNotFound
from gateway.registry.names import check_name
from gateway.registry.records import AliasMove
from gateway.registry.snapshot import Alias
from gateway.registry.storage import AdapterStorage
from gateway.registry.store import Store


class Moves(Store):
    """An alias and its record, which every move adds a line to."""

    _storage: AdapterStorage

    def alias(self, tenant: str, name: str) -> Alias:
        """Give an alias of the tenant, or the base model's. Raises `AliasNotFound`."""
        with self._read() as connection:
            return self._alias(connection, tenant, name)

    def has_alias(self, tenant: str, name: str) -> bool:
        """Whether the tenant has an alias of this name."""
        with self._read() as connection:
            return repository.find_alias_row(connection, tenant, name) is not None

    def promote(
        self,
        tenant: str,
        alias: str,
        number: int,
        actor: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Alias:
        """Make a verified version the stable one; the one before stays warm for a rollback.

        Number 0 lets the base model answer, for a new alias too. Ends a rollout of the alias.
        `detail` goes into the alias's record. Raises `InvalidName`, `AliasNotFound`,
        `VersionNotFound`, `VersionNotReady`.
        """
        check_name(alias)
        with self._change() as connection:
            now = self._clock(connection)
            lifecycle.promote(
                connection, tenant, alias, number, actor=actor, now=now, detail=detail
            )
            return self._alias(connection, tenant, alias)

    def rollback(self, tenant: str, alias: str, actor: str = "") -> Alias:
        """Undo the latest step: stop the rollout under way, or go back to the previous version.

        A rollout has not moved the stable version, so stopping it leaves that where it is. Else
        stable and previous change places. Raises `AliasNotFound`, `Conflict`.
        """
        with self._change() as connection:
            now = self._clock(connection)
            lifecycle.rollback(connection, tenant, alias, actor=actor, now=now)
            return self._alias(connection, tenant, alias)

    def set_rollout(
        self,
        tenant: str,
        alias: str,
        number: int,
        weight: float,
        actor: str = "",
        detail: Mapping[str, Any] | None = None,
        *,
        shadow: float = 0.0,
    ) -> Alias:
        """Send a share (0..1) of the callers to a verified candidate; replaces another rollout.

        With `shadow` it gets copies of so many of the calls. Number 0 is the base model. `detail`
        goes into the alias's record. Raises `AliasNotFound`, `VersionNotFound`, `VersionNotReady`,
        `Conflict`, `InvalidRequest`.
        """
        step = lifecycle.Rollout(number, weight, detail or {}, shadow)
        with self._change() as connection:
            now = self._clock(connection)
            lifecycle.set_rollout(connection, tenant, alias, step, actor=actor, now=now)
            return self._alias(connection, tenant, alias)

    def drive_rollout(
        self,
        alias: Alias,
        number: int,
        begun: AliasMove,
        share: float,
        *,
        actor: str,
        detail: Mapping[str, Any],
    ) -> bool:
        """Give a candidate its next share of the callers: 1 promotes it, 0 stops the rollout.

        Gives whether the rollout was still where `begun`, a line of the alias's record, had brought
        it: where another one has followed, that stands. `detail` goes into the record. Raises as
        `set_rollout`.
        """
        tenant, name = alias.tenant, alias.name
        with self._change() as connection:
            newest = details.latest_moves(connection, self._alias(connection, tenant, name), 1)
            if newest != (begun,):
                return False
            told: dict[str, Any] = {"actor": actor, "now": self._clock(connection)}
            if share == 1:
                lifecycle.promote(connection, tenant, name, number, detail=detail, **told)
            elif share == 0:
                lifecycle.rollback(connection, tenant, name, detail=detail, **told)
            else:
                step = lifecycle.Rollout(number, share, detail)
                lifecycle.set_rollout(connection, tenant, name, step, **told)
        return True

    def latest_moves(self, tenant: str, name: str, most: int) -> tuple[AliasMove, ...]:
        """Give an alias's latest moves, newest first. Raises `AliasNotFound`."""
        with self._read() as connection:
            return details.latest_moves(connection, self._alias(connection, tenant, name), most)

    def _alias(self, connection: Connection, tenant: str, name: str) -> Alias:
        found = repository.find_alias(connection, tenant, name, self._storage.locate)
        if found is None:
            raise AliasNotFound
        return found
