"""Queries. Nothing here writes, and nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, exists, func, or_, select

from gateway.registry.names import model_name
from gateway.registry.records import GatewayBeat, KeyInfo, WorkerStatus
from gateway.registry.snapshot import (
    BASE_ALIAS,
    BASE_TENANT,
    NO_OPTIONS,
    Alias,
    AliasOptions,
    Effect,
    Key,
    KeyLimits,
    Placement,
    Snapshot,
    Version,
    VersionState,
    WorkerOptions,
    WorkerSpec,
)
from gateway.registry.tables import (
    ALIASES,
    KEYS,
    META,
    PLACEMENTS,
    REFERENCES,
    VERSIONS,
    WORKERS,
)

Locate = Callable[[str], str]


def read_meta(connection: Connection, key: str) -> str | None:
    """Give the value under `key`, or None."""
    value: str | None = connection.scalar(select(META.c.value).where(META.c.key == key))
    return value


def read_revision(connection: Connection) -> int:
    """Give the number of changes that gateways had to see so far."""
    return int(read_meta(connection, "revision") or 0)


def load_snapshot(
    connection: Connection, locate: Locate = str, held: Snapshot | None = None
) -> Snapshot:
    """Read everything the serving path needs; consistent where the transaction is.

    `locate` turns the stored path of an artifact into one that workers can open. Keys are found
    by the SHA-256 (hex) of their secret. Retired versions are left out once no worker has them.
    Where only placements have changed since `held`, only they are read.
    """
    revision = read_revision(connection)
    catalog = int(read_meta(connection, "catalog") or revision)
    if held is not None and held.catalog == catalog:
        placements = MappingProxyType(_placements(connection))
        return replace(held, revision=revision, placements=placements)
    versions = _versions(connection, locate)
    return Snapshot(
        revision=revision,
        keys=MappingProxyType(_keys(connection)),
        aliases=MappingProxyType(
            {
                (row.tenant, row.name): alias_of(row, versions)
                for row in connection.execute(select(ALIASES))
            }
        ),
        versions=MappingProxyType({(v.tenant, v.alias, v.number): v for v in versions.values()}),
        workers=MappingProxyType(
            {
                row.name: spec_of(row)
                for row in connection.execute(select(WORKERS).order_by(WORKERS.c.name))
            }
        ),
        placements=MappingProxyType(_placements(connection)),
        catalog=catalog,
    )


def _keys(connection: Connection) -> dict[str, Key]:
    query = select(KEYS).where(KEYS.c.revoked_at.is_(None))
    return {row.sha256: key_of(row) for row in connection.execute(query)}


def _versions(connection: Connection, locate: Locate) -> dict[int, Version]:
    placed = exists().where(PLACEMENTS.c.version_id == VERSIONS.c.id)
    query = version_query().where(or_(VERSIONS.c.state != VersionState.RETIRED.value, placed))
    return {row.id: version_of(row, locate) for row in connection.execute(query)}


def _placements(connection: Connection) -> dict[int, tuple[Placement, ...]]:
    found: dict[int, tuple[Placement, ...]] = {}
    query = select(PLACEMENTS).order_by(PLACEMENTS.c.version_id, PLACEMENTS.c.worker)
    for row in connection.execute(query):
        found[row.version_id] = (*found.get(row.version_id, ()), placement_of(row))
    return found


def version_query() -> Select[Any]:
    """Select what `version_of` needs; manifests stay behind, they are large."""
    return select(*(column for column in VERSIONS.c if column.name != "manifest"))


def find_version(
    connection: Connection, tenant: str, alias: str, number: int, locate: Locate = str
) -> Version | None:
    """Give the tenant's version of that number; base models belong to every tenant."""
    query = version_query().where(
        VERSIONS.c.tenant.in_((tenant, BASE_TENANT)),
        VERSIONS.c.alias == alias,
        VERSIONS.c.number == number,
    )
    row = connection.execute(_own_first(query, VERSIONS)).first()
    return version_of(row, locate) if row is not None else None


def base_of(connection: Connection, tenant: str, alias: str) -> Version:
    """Give the base model of an alias's newest version, or the default one."""
    newest = (
        select(VERSIONS.c.base_model)
        .where(VERSIONS.c.tenant == tenant, VERSIONS.c.alias == alias)
        .order_by(VERSIONS.c.number.desc())
        .limit(1)
    )
    wanted = model_name(connection.scalar(newest) or "")
    query = version_query().where(VERSIONS.c.tenant == BASE_TENANT, VERSIONS.c.number == 0)
    bases = {row.alias: version_of(row) for row in connection.execute(query)}
    own = (base for base in bases.values() if model_name(base.base_model) == wanted)
    return next(own, bases[BASE_ALIAS])


def _own_first(query: Select[Any], table: Any) -> Select[Any]:
    """Let a tenant's own name come before a base model's that was configured later."""
    return query.order_by(table.c.tenant == BASE_TENANT).limit(1)


def find_version_by_id(
    connection: Connection, version_id: int, locate: Locate = str
) -> Version | None:
    """Give the version with this id, or None."""
    row = connection.execute(version_query().where(VERSIONS.c.id == version_id)).one_or_none()
    return version_of(row, locate) if row is not None else None


def find_same_bytes(
    connection: Connection, tenant: str, alias: str, sha256: str, locate: Locate = str
) -> Version | None:
    """Give the alias's newest version with these bytes that is not retired."""
    query = (
        version_query()
        .where(
            VERSIONS.c.tenant == tenant,
            VERSIONS.c.alias == alias,
            VERSIONS.c.sha256 == sha256,
            VERSIONS.c.state != VersionState.RETIRED.value,
        )
        .order_by(VERSIONS.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return version_of(row, locate) if row is not None else None


def next_number(connection: Connection, tenant: str, alias: str) -> int:
    """Give the number that the alias's next version gets; unique only under the revision's lock."""
    query = select(func.max(VERSIONS.c.number)).where(
        and_(VERSIONS.c.tenant == tenant, VERSIONS.c.alias == alias)
    )
    return int(connection.scalar(query) or 0) + 1


def sha_in_use(connection: Connection, sha256: str) -> bool:
    """Whether any version has these bytes."""
    query = select(VERSIONS.c.id).where(VERSIONS.c.sha256 == sha256).limit(1)
    return connection.scalar(query) is not None


def find_alias_row(connection: Connection, tenant: str, name: str) -> Row[Any] | None:
    """Give the alias's row as it stands, with the ids of its versions."""
    query = select(ALIASES).where(
        ALIASES.c.tenant.in_((tenant, BASE_TENANT)), ALIASES.c.name == name
    )
    return connection.execute(_own_first(query, ALIASES)).first()


def find_alias(
    connection: Connection, tenant: str, name: str, locate: Locate = str
) -> Alias | None:
    """Give the tenant's alias of that name; base models belong to every tenant."""
    row = find_alias_row(connection, tenant, name)
    if row is None:
        return None
    ids = (row.stable_version_id, row.previous_version_id, row.candidate_version_id)
    wanted = [version_id for version_id in ids if version_id is not None]
    rows = connection.execute(version_query().where(VERSIONS.c.id.in_(wanted)))
    return alias_of(row, {found.id: version_of(found, locate) for found in rows})


def pointers_to(connection: Connection, version_id: int) -> list[str]:
    """Give the roles (`stable`, `previous`, `candidate`) that aliases give this version."""
    found = []
    for role in ("stable", "previous", "candidate"):
        column = ALIASES.c[f"{role}_version_id"]
        if connection.scalar(select(ALIASES.c.id).where(column == version_id).limit(1)) is not None:
            found.append(role)
    return found


def read_manifest(connection: Connection, version_id: int) -> Mapping[str, Any] | None:
    """Give a version's manifest."""
    query = select(VERSIONS.c.manifest).where(VERSIONS.c.id == version_id)
    manifest: Mapping[str, Any] | None = connection.scalar(query)
    return manifest


def read_reference(connection: Connection, version_id: int) -> Mapping[str, Any] | None:
    """Give the fingerprint that was adopted for a version which brought none."""
    query = select(REFERENCES.c.fingerprint).where(REFERENCES.c.version_id == version_id)
    found: Mapping[str, Any] | None = connection.scalar(query)
    return found


def version_of(row: Row[Any], locate: Locate = str) -> Version:
    """Turn a row of `version_query` into a value."""
    return Version(
        id=row.id,
        tenant=row.tenant,
        alias=row.alias,
        number=row.number,
        sha256=row.sha256,
        path=locate(row.path) if row.path else "",
        base_model=row.base_model,
        rank=row.rank,
        state=VersionState(row.state),
        draining=row.draining_since_revision is not None,
        draining_since=row.draining_since_revision,
        pinned=row.pinned or 0,
    )


def alias_of(row: Row[Any], versions: Mapping[int, Version]) -> Alias:
    """Turn an alias's row into a value; `versions` holds those it leads to."""
    return Alias(
        name=row.name,
        tenant=row.tenant,
        stable=versions.get(row.stable_version_id),
        previous=versions.get(row.previous_version_id),
        candidate=versions.get(row.candidate_version_id),
        weight=row.weight,
        created=int(row.created_at),
        options=AliasOptions.of(row.options) if row.options else NO_OPTIONS,
        moved_at=row.moved_at or 0.0,
        shadow=row.shadow or 0.0,
    )


def placement_of(row: Row[Any]) -> Placement:
    """Turn a placement's row into a value."""
    effect = Effect(row.effect) if row.effect is not None else None
    return Placement(row.worker, row.version_id, row.boot, effect, row.detail)


def key_of(row: Row[Any]) -> Key:
    """Turn a key's row into a value."""
    return Key(
        id=row.id,
        tenant=row.tenant,
        owner=row.owner,
        role=row.role,
        aliases=frozenset(row.aliases) if row.aliases is not None else None,
        expires_at=row.expires_at,
        purpose=row.purpose,
        limits=KeyLimits(
            row.requests_per_minute,
            row.tokens_per_minute,
            row.token_budget,
            row.budget_period,
            row.priority,
            row.max_parallel,
        ),
        account=row.account or row.id,
    )


def key_info_of(row: Row[Any]) -> KeyInfo:
    """Turn a key's row into what is listed of it."""
    return KeyInfo(key_of(row), row.prefix, row.created_at, row.revoked_at)


def spec_of(row: Row[Any]) -> WorkerSpec:
    """Turn a worker's row into what was configured of it, or found."""
    told = row.options or {}
    models = tuple(told.get("models", {}).items())
    options = WorkerOptions(told.get("api_key_env"), models, told.get("base"))
    left_out = tuple(told.get("left_out", {}).items())
    return WorkerSpec(row.name, row.url, row.kind, options, left_out)


def worker_of(row: Row[Any]) -> WorkerStatus:
    """Turn a worker's row into a value."""
    return WorkerStatus(
        name=row.name,
        url=row.url,
        kind=row.kind,
        boot=row.boot,
        healthy=row.healthy,
        detail=row.detail,
        metrics=row.metrics or {},
        seen_at=row.seen_at,
    )


def beat_of(row: Row[Any]) -> GatewayBeat:
    """Turn a heartbeat's row into a value."""
    return GatewayBeat(row.id, row.host, row.revision, frozenset(row.busy), row.heartbeat_at)
