"""Queries for operators: all that is known of an alias."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, or_, select

from gateway.registry.names import model_name
from gateway.registry.records import (
    EVERY_ALIAS,
    OPTIONS,
    AliasDetail,
    AliasMove,
    Seen,
    StateChange,
    VersionDetail,
    WantedAliases,
)
from gateway.registry.repository import (
    Locate,
    alias_of,
    base_of,
    placement_of,
    spec_of,
    version_of,
    version_query,
)
from gateway.registry.snapshot import (
    BASE_TENANT,
    DEFAULT_TENANT,
    Alias,
    Version,
    VersionState,
    why_left_out,
)
from gateway.registry.tables import (
    ALIAS_EVENTS,
    ALIASES,
    PLACEMENTS,
    USES,
    VERSION_EVENTS,
    VERSIONS,
    WORKERS,
)

_ALIVE = frozenset(VersionState) - {VersionState.RETIRED, VersionState.REJECTED}


_LEADS = ("stable_version_id", "previous_version_id", "candidate_version_id")


def overview(
    connection: Connection, tenant: str, wanted: WantedAliases, locate: Locate = str
) -> tuple[tuple[Alias, tuple[Version, ...]], ...]:
    """Give aliases that the tenant sees with their versions: two queries, however many."""
    mine = select(ALIASES).where(ALIASES.c.tenant.in_((tenant, BASE_TENANT)))
    page = _narrowed(mine, wanted).order_by(ALIASES.c.name).limit(wanted.limit)
    found = connection.execute(page).all()
    query = version_query().where(VERSIONS.c.tenant.in_((tenant, BASE_TENANT)))
    if wanted != EVERY_ALIAS:
        # An alias may lead to a version of another one: of the base.
        led = {getattr(row, column) for row in found for column in _LEADS}
        named = VERSIONS.c.alias.in_([row.name for row in found])
        query = query.where(or_(named, VERSIONS.c.id.in_(led - {None})))
    rows = connection.execute(query.order_by(VERSIONS.c.number))
    versions = {row.id: version_of(row, locate) for row in rows}
    by_alias: defaultdict[str, list[Version]] = defaultdict(list)
    for version in versions.values():
        by_alias[version.alias].append(version)
    return tuple((alias_of(row, versions), tuple(by_alias[row.name])) for row in found)


def _narrowed(query: Select[Any], wanted: WantedAliases) -> Select[Any]:
    name = ALIASES.c.name
    if wanted.names is not None:
        query = query.where(name.in_(wanted.names))
    if wanted.prefix:
        query = query.where(name.startswith(wanted.prefix, autoescape=True))
    if wanted.after is not None:
        query = query.where(name > wanted.after)
    return query


def describe(connection: Connection, alias: Alias, locate: Locate = str) -> AliasDetail:
    """Give an alias with its versions and its record, oldest first."""
    mine = (VERSIONS.c.tenant == alias.tenant, VERSIONS.c.alias == alias.name)
    query = select(VERSIONS, USES.c.used_at).outerjoin(USES, USES.c.version_id == VERSIONS.c.id)
    rows = connection.execute(query.where(*mine).order_by(VERSIONS.c.number)).all()
    events = _events(connection, mine)
    seen = _seen(connection, mine)
    up = _up(connection)
    stable = alias.stable
    base = stable if stable is not None and stable.is_base else None
    return AliasDetail(
        alias,
        (base or base_of(connection, alias.tenant, alias.name)).alias,
        tuple(
            VersionDetail(
                version_of(row, locate),
                row.manifest,
                row.created_at,
                row.used_at or row.created_at,
                tuple(events.get(row.id, ())),
                tuple(seen.get(row.id, ())),
                _waiting(version_of(row), up),
            )
            for row in rows
        ),
        _record(connection, alias),
    )


def waiting(connection: Connection, version: Version) -> str:
    """Say why no worker takes a version, where that will not pass by itself."""
    return _waiting(version, _up(connection))


def _up(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(select(WORKERS).where(WORKERS.c.healthy)).all()


def _waiting(version: Version, up: Sequence[Row[Any]]) -> str:
    if version.state not in _ALIVE or not up:
        return ""
    if version.is_merged:
        if any(_may_hold(row, version) for row in up):
            return ""
        return f"No worker that is up was started with it, under the name {version.worker_name}."
    plain = [row for row in up if not (row.metrics or {}).get("merged")]
    of_base = [row for row in plain if _base_of(row) in ("", model_name(version.base_model))]
    if not of_base:
        return f"No worker that is up has its base model, {version.base_model}."
    if any(_may_hold(row, version) for row in of_base):
        return ""
    return why_left_out(version, map(spec_of, of_base))


def _base_of(row: Row[Any]) -> str:
    """Give the base model of a worker; "" goes with every version."""
    return model_name((row.metrics or {}).get("base_model", ""))


def _may_hold(row: Row[Any], version: Version) -> bool:
    """Whether a worker has a version, or could be told to load it."""
    seen = row.metrics or {}
    names = (*seen.get("adapters", ()), *seen.get("merged", ()))
    declared = seen.get("static") and version.tenant == DEFAULT_TENANT and version.model in names
    if version.worker_name in names or declared:
        return True
    return not seen.get("static") and not version.is_merged


def _events(connection: Connection, mine: tuple[Any, ...]) -> dict[int, list[StateChange]]:
    query = (
        select(VERSION_EVENTS)
        .join(VERSIONS, VERSIONS.c.id == VERSION_EVENTS.c.version_id)
        .where(*mine)
        .order_by(VERSION_EVENTS.c.id)
    )
    found: dict[int, list[StateChange]] = {}
    for row in connection.execute(query):
        change = StateChange(row.version_id, VersionState(row.state), row.reason, row.actor, row.at)
        found.setdefault(row.version_id, []).append(change)
    return found


def _seen(connection: Connection, mine: tuple[Any, ...]) -> dict[int, list[Seen]]:
    query = (
        select(PLACEMENTS, WORKERS.c.boot.label("now"))
        .join(VERSIONS, VERSIONS.c.id == PLACEMENTS.c.version_id)
        .outerjoin(WORKERS, WORKERS.c.name == PLACEMENTS.c.worker)
        .where(*mine)
        .order_by(PLACEMENTS.c.worker)
    )
    found: dict[int, list[Seen]] = {}
    for row in connection.execute(query):
        seen = Seen(placement_of(row), row.checked_at, row.boot == row.now)
        found.setdefault(row.version_id, []).append(seen)
    return found


def latest_moves(connection: Connection, alias: Alias, most: int) -> tuple[AliasMove, ...]:
    """Give an alias's latest moves, newest first, without reading all of its record.

    New options are none: whoever drives a rollout goes by its newest move.
    """
    moves = _move_query(alias).where(ALIAS_EVENTS.c.kind != OPTIONS)
    query = moves.order_by(ALIAS_EVENTS.c.id.desc()).limit(most)
    return tuple(_move_of(row) for row in connection.execute(query))


def _record(connection: Connection, alias: Alias) -> tuple[AliasMove, ...]:
    query = _move_query(alias).order_by(ALIAS_EVENTS.c.id)
    return tuple(_move_of(row) for row in connection.execute(query))


def _move_query(alias: Alias) -> Select[Any]:
    before, after = VERSIONS.alias("before"), VERSIONS.alias("after")
    return (
        select(
            ALIAS_EVENTS, before.c.number.label("from_number"), after.c.number.label("to_number")
        )
        .join(ALIASES, ALIASES.c.id == ALIAS_EVENTS.c.alias_id)
        .outerjoin(before, before.c.id == ALIAS_EVENTS.c.from_version_id)
        .outerjoin(after, after.c.id == ALIAS_EVENTS.c.to_version_id)
        .where(ALIASES.c.tenant == alias.tenant, ALIASES.c.name == alias.name)
    )


def _move_of(row: Row[Any]) -> AliasMove:
    return AliasMove(row.kind, row.from_number, row.to_number, row.detail or {}, row.actor, row.at)
