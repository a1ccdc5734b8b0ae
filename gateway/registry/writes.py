"""Changes of single rows. Nothing here opens or ends a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    delete,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.registry.notices import notify
from gateway.registry.repository import read_meta
from gateway.registry.snapshot import Placement, VersionState, WorkerSpec
from gateway.registry.tables import (
    ALIAS_EVENTS,
    ALIASES,
    GATEWAYS,
    KEYS,
    LEASES,
    META,
    PLACEMENTS,
    REFERENCES,
    USES,
    VERSION_EVENTS,
    VERSIONS,
    WORKERS,
)

ENDED = (VersionState.RETIRED, VersionState.REJECTED)


def lock_revision(connection: Connection) -> None:
    """Make other changers wait; on SQLite the write transaction itself does that."""
    query = select(META.c.value).where(META.c.key == "revision")
    connection.execute(query.with_for_update()).one_or_none()


def bump_revision(connection: Connection, *, placements_only: bool = False) -> int:
    """Tell gateways that something changed, and give the new revision."""
    revision = int(read_meta(connection, "revision") or 0) + 1
    names = ("revision",) if placements_only else ("revision", "catalog")
    for name in names:
        upsert(connection, META, {"key": name}, {"value": str(revision)})
    notify(connection)
    return revision


def put_meta_once(connection: Connection, key: str, value: str) -> None:
    """Keep a value under `key`, unless one is there."""
    insert_once(connection, META, {"key": key, "value": value})


def insert_version(
    connection: Connection, values: Mapping[str, Any], reason: str, actor: str
) -> int:
    """Add a version and the first line of its record; give its id."""
    statement = insert(VERSIONS).values(**values).returning(VERSIONS.c.id)
    version_id = int(connection.execute(statement).scalar_one())
    _record_state(
        connection,
        version_id,
        values["tenant"],
        values["state"],
        reason,
        actor,
        values["created_at"],
    )
    put_uses(connection, {version_id: values["created_at"]})
    return version_id


def put_uses(connection: Connection, used_at: Mapping[int, float]) -> None:
    """Note when versions were last used, in one statement; the latest time stays."""
    if not used_at:
        return
    # In order of ids: two gateways that note the same versions cannot lock each other out.
    rows = [{"version_id": key, "used_at": used_at[key]} for key in sorted(used_at)]
    statement = _insert(connection, USES).values(rows)
    newer = statement.excluded.used_at
    statement = statement.on_conflict_do_update(
        index_elements=["version_id"],
        set_={"used_at": newer},
        where=newer > USES.c.used_at,
    )
    connection.execute(statement)


def pin_version(
    connection: Connection,
    version_id: int,
    tenant: str,
    state: VersionState,
    *,
    replicas: int | None,
    actor: str,
    now: float,
) -> None:
    """Say how many workers are to hold a version whatever happens; None: it may make room."""
    connection.execute(update(VERSIONS).where(VERSIONS.c.id == version_id).values(pinned=replicas))
    reason = f"pinned to {replicas} workers" if replicas else "no longer pinned"
    _record_state(connection, version_id, tenant, state.value, reason, actor, now)


def update_state(
    connection: Connection,
    version_id: int,
    tenant: str,
    state: VersionState,
    *,
    reason: str,
    actor: str,
    now: float,
    revision: int,
) -> None:
    """Move a version to `state`; one that has ended drains from `revision` on, and has no pin."""
    values: dict[str, Any] = {"state": state.value, "draining_since_revision": None}
    if state in ENDED:
        values |= {"draining_since_revision": revision, "pinned": None}
    connection.execute(update(VERSIONS).where(VERSIONS.c.id == version_id).values(**values))
    _record_state(connection, version_id, tenant, state.value, reason, actor, now)


def _record_state(
    connection: Connection,
    version_id: int,
    tenant: str,
    state: str,
    reason: str,
    actor: str,
    now: float,
) -> None:
    connection.execute(
        insert(VERSION_EVENTS).values(
            version_id=version_id, tenant=tenant, state=state, reason=reason, actor=actor, at=now
        )
    )


def put_base_version(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Keep the base model's version 0, with its present name; whether anything changed."""
    if insert_once(connection, VERSIONS, values):
        return True
    base = [VERSIONS.c[name] == values[name] for name in ("tenant", "alias", "number")]
    changed = connection.execute(
        update(VERSIONS)
        .where(*base, VERSIONS.c.base_model != values["base_model"])
        .values(base_model=values["base_model"])
    )
    return changed.rowcount > 0


def put_reference(
    connection: Connection, version_id: int, fingerprint: Mapping[str, Any], worker: str, now: float
) -> bool:
    """Adopt a measured fingerprint; the first one stays. Whether this one was adopted."""
    return insert_once(
        connection,
        REFERENCES,
        {"version_id": version_id, "fingerprint": fingerprint, "worker": worker, "at": now},
    )


def insert_alias(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Add an alias unless it is there; whether it was added."""
    blank = {"previous_version_id": None, "candidate_version_id": None, "weight": 0.0}
    return insert_once(connection, ALIASES, {**blank, **values})


def move_alias(
    connection: Connection,
    alias_id: int,
    *,
    stable: int | None,
    previous: int | None,
    candidate: int | None = None,
    weight: float = 0.0,
    shadow: float = 0.0,
    now: float,
) -> None:
    """Set all that an alias leads to."""
    connection.execute(
        update(ALIASES)
        .where(ALIASES.c.id == alias_id)
        .values(
            stable_version_id=stable,
            previous_version_id=previous,
            candidate_version_id=candidate,
            weight=weight,
            shadow=shadow or None,
            moved_at=now,
        )
    )


def set_options(connection: Connection, alias_id: int, given: Mapping[str, Any]) -> None:
    """Replace what an alias brings along."""
    statement = update(ALIASES).where(ALIASES.c.id == alias_id)
    connection.execute(statement.values(options=dict(given) or None))


def record_move(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a line to an alias's record."""
    connection.execute(insert(ALIAS_EVENTS).values(**values))


def insert_key(connection: Connection, values: Mapping[str, Any]) -> int:
    """Add a key; give its id."""
    statement = insert(KEYS).values(**values).returning(KEYS.c.id)
    return int(connection.execute(statement).scalar_one())


def update_key(connection: Connection, key_id: int, values: Mapping[str, Any]) -> None:
    """Change a key's row."""
    connection.execute(update(KEYS).where(KEYS.c.id == key_id).values(**values))


def on_account(account: int) -> ColumnElement[bool]:
    """Give the condition for the keys that count on one account: the first one and its heirs."""
    return or_(KEYS.c.id == account, KEYS.c.account == account)


def update_account(connection: Connection, account: int, values: Mapping[str, Any]) -> None:
    """Change the rows of all keys that count on one account."""
    connection.execute(update(KEYS).where(on_account(account)).values(**values))


def revoke_key(connection: Connection, tenant: str, key_id: int, now: float) -> None:
    """Revoke a key that is not revoked yet."""
    connection.execute(
        update(KEYS)
        .where(KEYS.c.tenant == tenant, KEYS.c.id == key_id, KEYS.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )


def put_placement(connection: Connection, placement: Placement, now: float) -> None:
    """Keep what a worker was found to answer with."""
    upsert(
        connection,
        PLACEMENTS,
        {"worker": placement.worker, "version_id": placement.version_id},
        {
            "boot": placement.boot,
            "effect": placement.effect.value if placement.effect is not None else None,
            "detail": placement.detail,
            "checked_at": now,
        },
    )


def delete_placements(connection: Connection, *conditions: Any) -> bool:
    """Forget placements; whether there were any."""
    return connection.execute(delete(PLACEMENTS).where(*conditions)).rowcount > 0


def put_worker(connection: Connection, spec: WorkerSpec) -> None:
    """Add a worker, not yet seen, or give a known one its present address and options."""
    fresh = {"boot": "", "healthy": False, "detail": "", "metrics": None, "seen_at": None}
    options = asdict(spec.options) | {"models": dict(spec.options.models)}
    options |= {"left_out": dict(spec.left_out)}
    told = {"url": spec.url, "kind": spec.kind, "options": options}
    insert_once(connection, WORKERS, {"name": spec.name, **told, **fresh})
    connection.execute(update(WORKERS).where(WORKERS.c.name == spec.name).values(**told))


def update_worker(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    """Note what was last seen of a worker."""
    connection.execute(update(WORKERS).where(WORKERS.c.name == name).values(**values))


def delete_worker(connection: Connection, name: str) -> bool:
    """Forget a worker; whether it was known."""
    return connection.execute(delete(WORKERS).where(WORKERS.c.name == name)).rowcount > 0


def put_gateway(connection: Connection, gateway_id: str, values: Mapping[str, Any]) -> None:
    """Keep a gateway's heartbeat."""
    upsert(connection, GATEWAYS, {"id": gateway_id}, values)


def delete_gateways(connection: Connection, *conditions: Any) -> None:
    """Forget gateways."""
    connection.execute(delete(GATEWAYS).where(*conditions))


def take_lease(
    connection: Connection, name: str, holder: str, expires_at: float, now: float, never: float
) -> bool:
    """Take or renew a lease in one statement; False while another holds it.

    One that ends after `never` was given by another clock, and is free too.
    """
    ends = LEASES.c.expires_at
    free = or_(LEASES.c.holder == holder, ends <= now, ends > never)
    values = {"holder": holder, "expires_at": expires_at}
    return upsert(connection, LEASES, {"name": name}, values, only_if=free)


def drop_lease(connection: Connection, name: str, holder: str) -> bool:
    """Give a lease back; whether `holder` had it."""
    mine = delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder)
    return connection.execute(mine).rowcount > 0


def upsert(
    connection: Connection,
    table: Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    only_if: Any = None,
) -> bool:
    """Insert a row, or update the one with this key where `only_if` holds; whether it was done."""
    statement = _insert(connection, table).values(**key, **values)
    statement = statement.on_conflict_do_update(
        index_elements=list(key),
        set_={name: statement.excluded[name] for name in values},
        where=only_if,
    )
    return _done(connection, statement)


def insert_once(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one of its unique values is there; whether it was done."""
    return _done(connection, _insert(connection, table).values(**values).on_conflict_do_nothing())


def _done(connection: Connection, statement: sqlite.Insert | postgresql.Insert) -> bool:
    # The count of inserted rows is not to be had of every driver, what they return is.
    return connection.execute(statement.returning(literal(1))).first() is not None


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
