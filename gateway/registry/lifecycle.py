"""The rules by which versions change state and aliases move, inside the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from gateway.errors import Conflict, InvalidRequest
from gateway.registry import details, repository, writes
from gateway.registry.errors import AliasNotFound, VersionNotFound, VersionNotReady
from gateway.registry.repository import Locate
from gateway.registry.snapshot import BASE_TENANT, Version, VersionState

_READY = (VersionState.CANDIDATE, VersionState.SERVING)

_FOLLOWS: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.REGISTERED: frozenset(
        {
            VersionState.VERIFYING,
            VersionState.CANDIDATE,
            VersionState.REJECTED,
            VersionState.RETIRED,
        }
    ),
    VersionState.VERIFYING: frozenset(
        {
            VersionState.REGISTERED,
            VersionState.CANDIDATE,
            VersionState.REJECTED,
            VersionState.RETIRED,
        }
    ),
    VersionState.CANDIDATE: frozenset(
        {VersionState.VERIFYING, VersionState.SERVING, VersionState.REJECTED, VersionState.RETIRED}
    ),
    VersionState.SERVING: frozenset({VersionState.RETIRED}),
    VersionState.REJECTED: frozenset({VersionState.VERIFYING, VersionState.RETIRED}),
    VersionState.RETIRED: frozenset(),
}

_ADVICE: Mapping[VersionState, str] = {
    VersionState.REGISTERED: "wait until a worker has loaded and verified it",
    VersionState.VERIFYING: "wait until a worker has verified it",
    VersionState.CANDIDATE: "it can be promoted",
    VersionState.SERVING: "it can be promoted",
    VersionState.REJECTED: "its record says why; register a corrected adapter",
    VersionState.RETIRED: "register its files again for a new version",
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """A step of a rollout: the share of the callers, 0..1, that goes to the candidate.

    Before the first of them, `shadow` is the share of the calls that is copied to it.
    """

    number: int
    weight: float
    detail: Mapping[str, Any]
    shadow: float = 0.0


def need_version(
    connection: Connection, tenant: str, alias: str, number: int, locate: Locate = str
) -> Version:
    """Give a version that the tenant sees. Raises `VersionNotFound`."""
    found = repository.find_version(connection, tenant, alias, number, locate)
    if found is None:
        raise VersionNotFound(f"There is no version {number} of {alias!r}.")
    return found


def need_version_by_id(connection: Connection, version_id: int, locate: Locate = str) -> Version:
    """Give the version with this id. Raises `VersionNotFound`."""
    found = repository.find_version_by_id(connection, version_id, locate)
    if found is None:
        raise VersionNotFound
    return found


def set_state(
    connection: Connection,
    version_id: int,
    state: VersionState,
    *,
    reason: str,
    actor: str,
    now: float,
) -> None:
    """Move a version to `state`. Raises `VersionNotFound`, and `Conflict` where it may not go."""
    version = need_version_by_id(connection, version_id)
    if version.state is state:
        return
    if version.is_base:
        raise Conflict("The base model is always served: its state does not change.")
    if state not in _FOLLOWS[version.state]:
        raise Conflict(f"{version.model} is {version.state} and cannot become {state}.")
    _free(connection, version, state, actor, now)
    writes.update_state(
        connection,
        version_id,
        version.tenant,
        state,
        reason=reason,
        actor=actor,
        now=now,
        revision=writes.bump_revision(connection),
    )


def pin(
    connection: Connection, version: Version, replicas: int | None, *, actor: str, now: float
) -> None:
    """Pin a version, or let it go where `replicas` is None. Raises `Conflict`."""
    if version.is_base:
        raise Conflict("The base model is on every worker of its own: it needs no pin.")
    if version.is_merged:
        raise Conflict(f"{version.model} is where workers were started with it: it takes no pin.")
    if replicas is not None and version.state in writes.ENDED:
        raise Conflict(f"{version.model} is {version.state} and gets no more calls.")
    if version.pinned == (replicas or 0):
        return
    writes.pin_version(
        connection,
        version.id,
        version.tenant,
        version.state,
        replicas=replicas,
        actor=actor,
        now=now,
    )
    writes.bump_revision(connection)


def _free(
    connection: Connection, version: Version, state: VersionState, actor: str, now: float
) -> None:
    """See to it that no alias leads to a version that ends, or refuse."""
    if state not in writes.ENDED:
        return
    row = _need_alias(connection, version.tenant, version.alias)
    if state is VersionState.REJECTED and row.candidate_version_id == version.id:
        stable, previous = row.stable_version_id, row.previous_version_id
        _move(connection, row, "rollback", stable, previous, actor=actor, now=now)
        return
    for role in ("stable", "previous", "candidate"):
        if getattr(row, f"{role}_version_id") == version.id:
            raise Conflict(
                f"{version.model} is the {role} version of {version.alias!r} and cannot become "
                f"{state}: {_HOW_TO_FREE[role]}."
            )


_HOW_TO_FREE: Mapping[str, str] = {
    "stable": "promote another version and then one more, or roll back",
    "previous": "it is kept for a rollback until the next version is promoted",
    "candidate": "end the rollout first, by promote or rollback",
}


def put_base(connection: Connection, name: str, model: str, now: float) -> bool:
    """Keep a base model under its alias, as version 0 of it; whether anything changed."""
    owner = {"tenant": BASE_TENANT, "created_at": now}
    values = {
        "alias": name,
        "number": 0,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "path": "",
        "manifest": {},
        "base_model": model,
        "rank": 0,
        "state": VersionState.SERVING.value,
        "draining_since_revision": None,
    }
    changed = writes.put_base_version(connection, {**owner, **values})
    base = need_version(connection, BASE_TENANT, name, 0)
    alias = {**owner, "name": name, "stable_version_id": base.id}
    return writes.insert_alias(connection, alias) or changed


def promote(
    connection: Connection,
    tenant: str,
    alias: str,
    number: int,
    *,
    actor: str,
    now: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Make a version stable and end a rollout; the stable one again changes nothing.

    Number 0 is the base model, which may answer for any alias, for a new one too.
    """
    if number == 0 and repository.find_alias_row(connection, tenant, alias) is None:
        fresh = {"tenant": tenant, "name": alias, "stable_version_id": None, "created_at": now}
        writes.insert_alias(connection, fresh)
    row = _need_own_alias(connection, tenant, alias)
    version = _need_ready(connection, tenant, alias, number, "promoted")
    if row.stable_version_id == version.id and row.candidate_version_id is None:
        return
    previous = row.stable_version_id
    if previous == version.id:
        previous = row.previous_version_id
    if version.state is not VersionState.SERVING:
        set_state(
            connection,
            version.id,
            VersionState.SERVING,
            reason=f"promoted to stable of {alias}",
            actor=actor,
            now=now,
        )
    _move(connection, row, "promote", version.id, previous, actor=actor, now=now, detail=detail)


def rollback(
    connection: Connection,
    tenant: str,
    alias: str,
    *,
    actor: str,
    now: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Stop the rollout under way, else swap the stable and the previous version."""
    row = _need_own_alias(connection, tenant, alias)
    if row.candidate_version_id is not None:
        stable, previous = row.stable_version_id, row.previous_version_id
    elif row.previous_version_id is not None:
        stable, previous = row.previous_version_id, row.stable_version_id
    else:
        raise Conflict(f"{alias!r} has no previous version to roll back to.")
    _move(connection, row, "rollback", stable, previous, actor=actor, now=now, detail=detail)


def set_rollout(
    connection: Connection, tenant: str, alias: str, step: Rollout, *, actor: str, now: float
) -> None:
    """Set the alias's candidate and its weight; number 0 is the base model."""
    if not 0.0 <= step.weight <= 1.0:
        raise InvalidRequest("A rollout's weight lies between 0 and 1.", param="steps")
    if not 0.0 <= step.shadow <= 1.0:
        raise InvalidRequest("A shadow's share lies between 0 and 1.", param="shadow.share")
    row = _need_own_alias(connection, tenant, alias)
    version = _need_ready(connection, tenant, alias, step.number, "rolled out")
    if row.stable_version_id is None:
        raise Conflict(
            f"{alias!r} has no stable version yet to compare with: promote {version.model}."
        )
    if row.stable_version_id == version.id:
        raise Conflict(f"{version.model} is the stable version already.")
    writes.move_alias(
        connection,
        row.id,
        stable=row.stable_version_id,
        previous=row.previous_version_id,
        candidate=version.id,
        weight=step.weight,
        shadow=step.shadow,
        now=now,
    )
    _record(
        connection, row, "rollout", version.id, {**step.detail, "weight": step.weight}, actor, now
    )
    writes.bump_revision(connection)


def _move(
    connection: Connection,
    row: Row[Any],
    kind: str,
    stable: int | None,
    previous: int | None,
    *,
    actor: str,
    now: float,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Point the alias, end its rollout, and record where the callers came from."""
    writes.move_alias(connection, row.id, stable=stable, previous=previous, now=now)
    _record(connection, row, kind, stable, detail or {}, actor, now)
    writes.bump_revision(connection)


def _record(
    connection: Connection,
    row: Row[Any],
    kind: str,
    to: int | None,
    detail: Mapping[str, Any],
    actor: str,
    now: float,
) -> None:
    ended = row.candidate_version_id if kind == "rollback" else None
    writes.record_move(
        connection,
        {
            "alias_id": row.id,
            "tenant": row.tenant,
            "kind": kind,
            "from_version_id": ended or row.stable_version_id,
            "to_version_id": to,
            "detail": dict(detail),
            "actor": actor,
            "at": now,
        },
    )


def _need_alias(connection: Connection, tenant: str, alias: str) -> Row[Any]:
    row = repository.find_alias_row(connection, tenant, alias)
    if row is None:
        raise AliasNotFound(f"No adapter is registered under the name {alias[:80]!r}.")
    return row


def _need_own_alias(connection: Connection, tenant: str, alias: str) -> Row[Any]:
    row = _need_alias(connection, tenant, alias)
    if row.tenant == BASE_TENANT:
        raise Conflict("A base model has one version only, which is always stable.")
    return row


def _need_ready(connection: Connection, tenant: str, alias: str, number: int, done: str) -> Version:
    """Give a version that may answer for the alias; its versions' base model always may."""
    if number == 0:
        return repository.base_of(connection, tenant, alias)
    version = need_version(connection, tenant, alias, number)
    if version.state not in _READY:
        advice = details.waiting(connection, version) or f"{_ADVICE[version.state]}."
        raise VersionNotReady(f"{version.model} is {version.state} and cannot be {done}: {advice}")
    return version
