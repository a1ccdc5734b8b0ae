"""The registry: which adapter versions there are, where aliases lead, and who may call them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from gateway.errors import Conflict
from gateway.registry import details, lifecycle, repository, writes
from gateway.registry.ancestry import Ancestry
from gateway.registry.artifacts import AdapterFacts, Rules, inspect
from gateway.registry.base_shapes import BaseModelShapes
from gateway.registry.db import make_engine, server_time
from gateway.registry.errors import InvalidName, VersionNotFound
from gateway.registry.fleet import Fleet
from gateway.registry.keys import Keys
from gateway.registry.merged_models import inspect_merged
from gateway.registry.moves import Moves
from gateway.registry.names import check_name
from gateway.registry.receiving import Draft, Source, is_model
from gateway.registry.records import EVERY_ALIAS, AliasDetail, Registered, WantedAliases
from gateway.registry.serving_options import ServingOptions
from gateway.registry.snapshot import (
    BASE_ALIAS,
    Alias,
    Snapshot,
    Version,
    VersionState,
)
from gateway.registry.storage import AdapterStorage, key_of, open_storage
from gateway.registry.store import Clock
from gateway.settings import BaseModelSettings, GatewaySettings


class Registry(Keys, Fleet, Moves, ServingOptions, Ancestry):
    """Every operation is one transaction, safe beside other processes, and blocks: use threads.

    Any of them raises `StoreUnavailable` when the database does not answer. `prepare` comes first,
    once per process, on a database whose migrations have run.
    """

    def __init__(
        self,
        engine: Engine,
        storage: AdapterStorage | Path | str,
        *,
        base_model: str,
        base_model_path: Path | None = None,
        max_lora_rank: int = 16,
        bases: Sequence[BaseModelSettings] = (),
        clock: Clock = server_time,
    ) -> None:
        """Take what adapters must fit: the base models' names, their files where at hand."""
        super().__init__(engine, clock)
        self._storage = open_storage(storage) if isinstance(storage, Path | str) else storage
        models = [(BASE_ALIAS, base_model, base_model_path)]
        models += [(base.name, base.model, base.path) for base in bases]
        self._bases = {
            name: Rules(model, max_lora_rank, BaseModelShapes(path) if path is not None else None)
            for name, model, path in models
        }

    @classmethod
    def from_settings(cls, settings: GatewaySettings) -> Registry:
        """Make a registry, with an engine of its own, from the gateway's settings."""
        return cls(
            make_engine(settings.database_url),
            settings.storage,
            base_model=settings.base_model,
            base_model_path=settings.base_model_path,
            max_lora_rank=settings.max_lora_rank,
            bases=settings.bases,
        )

    @property
    def storage(self) -> AdapterStorage:
        """Where adapter files lie."""
        return self._storage

    @property
    def base_models(self) -> tuple[str, ...]:
        """The base models that versions may be made for."""
        return tuple(rules.base_model for rules in self._bases.values())

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # -- start and snapshot ----------------------------------------------------------------------

    def prepare(self) -> None:
        """Make what must always be there: revision, secret, base models. Again is the same."""
        with self._write() as connection:
            writes.put_meta_once(connection, "revision", "0")
            writes.put_meta_once(connection, "secret", secrets.token_hex(32))
        with self._change() as connection:
            now = self._clock(connection)
            changed = [
                lifecycle.put_base(connection, name, rules.base_model, now)
                for name, rules in self._bases.items()
            ]
            if any(changed):
                writes.bump_revision(connection)

    def secret(self) -> bytes:
        """Give the installation's secret, the same for all its processes; made by `prepare`."""
        with self._read() as connection:
            value = repository.read_meta(connection, "secret")
        if value is None:
            raise Conflict("The registry has not been prepared.")
        return bytes.fromhex(value)

    def revision(self) -> int:
        """Give the number of changes so far: a cheap way to see whether a snapshot is stale."""
        with self._read() as connection:
            return repository.read_revision(connection)

    def snapshot(self, held: Snapshot | None = None) -> Snapshot:
        """Read one consistent view of everything that serving needs.

        An older one that is `held` makes it cheap where only placements have changed since.
        """
        with self._read() as connection:
            return repository.load_snapshot(connection, self._storage.locate, held)

    # -- versions --------------------------------------------------------------------------------

    def register(self, tenant: str, alias: str, source: Source, actor: str = "") -> Version:
        """Check an adapter, keep its files and give its version; see `add`."""
        return self.add(tenant, alias, source, actor).version

    def add(self, tenant: str, alias: str, source: Source, actor: str = "") -> Registered:
        """Check an adapter and keep its files as the alias's next version, in state `registered`.

        A whole model is taken too: it has a `config.json` and no `adapter_config.json`. `source`
        is a folder or open files by name. The same bytes again give the version that has
        them, unless that one is retired. The first version of a new name makes the alias. Raises
        `InvalidName`, `InvalidAdapter` (the message names fault and field), `AdapterTooLarge`;
        nothing is left behind then.
        """
        check_name(tenant, "tenant")
        if check_name(alias) in self._bases:
            raise InvalidName(f"{alias!r} is a base model's own name: choose another.")
        with self._storage.receive(source) as draft:
            check = inspect_merged if is_model(draft.files) else inspect
            facts = check(draft, *self._bases.values())
            return self._add_draft(tenant, alias, draft, facts, actor)

    def _add_draft(
        self, tenant: str, alias: str, draft: Draft, facts: AdapterFacts, actor: str
    ) -> Registered:
        sha256 = draft.sha256
        # An upload takes its time, and the transaction holds up everybody who writes.
        key, fresh = self._storage.keep(draft)
        try:
            with self._change() as connection:
                same = repository.find_same_bytes(
                    connection, tenant, alias, sha256, self._storage.locate
                )
                if same is not None:
                    return Registered(same, created=False)
                version = self._insert(connection, tenant, alias, sha256, key, facts, actor)
                if not self._storage.holds(key):
                    raise Conflict(
                        "The same files were registered at the same time, and discarded when that"
                        " failed: send them again."
                    )
            return Registered(version, created=True)
        except BaseException:
            if fresh:
                self._discard_unused(key, sha256)
            raise

    def _insert(
        self,
        connection: Connection,
        tenant: str,
        alias: str,
        sha256: str,
        key: str,
        facts: AdapterFacts,
        actor: str,
    ) -> Version:
        now = self._clock(connection)
        values = {
            "tenant": tenant,
            "alias": alias,
            "number": repository.next_number(connection, tenant, alias),
            "sha256": sha256,
            "path": key,
            "manifest": facts.manifest,
            "base_model": facts.base_model,
            "rank": facts.rank,
            "state": VersionState.REGISTERED.value,
            "draining_since_revision": None,
            "created_at": now,
        }
        writes.insert_alias(
            connection,
            {"tenant": tenant, "name": alias, "stable_version_id": None, "created_at": now},
        )
        version_id = writes.insert_version(connection, values, "registered", actor)
        writes.bump_revision(connection)
        found = repository.find_version_by_id(connection, version_id, self._storage.locate)
        if found is None:
            raise VersionNotFound
        return found

    def _discard_unused(self, key: str, sha256: str) -> None:
        """Delete files of a registration that failed, unless another one has come to use them."""
        with self._change() as connection:
            if not repository.sha_in_use(connection, sha256):
                self._storage.discard(key)

    def version(self, tenant: str, alias: str, number: int) -> Version:
        """Give a version of the tenant, or of the base model. Raises `VersionNotFound`."""
        with self._read() as connection:
            return lifecycle.need_version(connection, tenant, alias, number, self._storage.locate)

    def manifest(self, version_id: int) -> Mapping[str, Any]:
        """Give what is known of a version's files and training. Raises `VersionNotFound`."""
        with self._read() as connection:
            manifest = repository.read_manifest(connection, version_id)
        if manifest is None:
            raise VersionNotFound
        return manifest

    def read_file(self, version: Version, name: str) -> Iterator[bytes]:
        """Give a file that a version's manifest names, in parts. Raises `StorageUnavailable`."""
        return self._storage.read(key_of(version.sha256), name)

    def set_state(
        self, version_id: int, state: VersionState, reason: str = "", actor: str = ""
    ) -> Version:
        """Move a version to a state that may follow its present one; the same again is a no-op.

        Rejecting a candidate ends its rollout. Rejected and retired versions drain: they get no
        more calls. Raises `VersionNotFound`, `Conflict`.
        """
        with self._change() as connection:
            now = self._clock(connection)
            lifecycle.set_state(connection, version_id, state, reason=reason, actor=actor, now=now)
            return lifecycle.need_version_by_id(connection, version_id, self._storage.locate)

    def adopt_reference(self, version_id: int, fingerprint: Mapping[str, Any], worker: str) -> bool:
        """Keep what the first effective worker measured, for a version that brought no reference.

        The first one stays; whether it was this one.
        """
        with self._write() as connection:
            lifecycle.need_version_by_id(connection, version_id)
            now = self._clock(connection)
            return writes.put_reference(connection, version_id, fingerprint, worker, now)

    def reference(self, version_id: int) -> Mapping[str, Any] | None:
        """Give the fingerprint to verify by: the manifest's, else the adopted one, else None."""
        with self._read() as connection:
            manifest = repository.read_manifest(connection, version_id) or {}
            if manifest.get("fingerprint") is not None:
                own: Mapping[str, Any] = manifest["fingerprint"]
                return own
            return repository.read_reference(connection, version_id)

    def retire(
        self, tenant: str, alias: str, number: int, actor: str = "", reason: str = ""
    ) -> Version:
        """End a version for good; workers drop it once its calls are done.

        Raises `VersionNotFound`, and `Conflict` while an alias leads to it.
        """
        with self._change() as connection:
            version = lifecycle.need_version(connection, tenant, alias, number)
            now = self._clock(connection)
            lifecycle.set_state(
                connection, version.id, VersionState.RETIRED, reason=reason, actor=actor, now=now
            )
            return lifecycle.need_version_by_id(connection, version.id, self._storage.locate)

    # -- for operators ---------------------------------------------------------------------------

    def describe(self, tenant: str, name: str) -> AliasDetail:
        """Give an alias with its versions, their records and workers. Raises `AliasNotFound`."""
        with self._read() as connection:
            return details.describe(
                connection, self._alias(connection, tenant, name), self._storage.locate
            )

    def overview(
        self, tenant: str, wanted: WantedAliases = EVERY_ALIAS
    ) -> tuple[tuple[Alias, tuple[Version, ...]], ...]:
        """Give the aliases that the tenant sees with their versions, by name and number."""
        with self._read() as connection:
            return details.overview(connection, tenant, wanted, self._storage.locate)
