"""API keys: made once, shown once, kept as digests."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, assert_never

from sqlalchemy import Connection, Row, Select, or_, select

from gateway.errors import Conflict, InvalidRequest
from gateway.registry import repository, writes
from gateway.registry.errors import KeyNotFound
from gateway.registry.names import check_name
from gateway.registry.records import EVERY_KEY, PURPOSES, ROLES, KeyInfo, WantedKeys
from gateway.registry.snapshot import NO_LIMITS, Key, KeyLimits
from gateway.registry.store import Store
from gateway.registry.tables import KEYS
from gateway.registry.writes import on_account

_PREFIX = "sk-al-"
_SHOWN = len(_PREFIX) + 6


def digest(secret: str) -> str:
    """Give what is stored of a key, and what `Snapshot.keys` is looked up by: SHA-256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Keys(Store):
    """The registry's keys."""

    def create_key(
        self,
        *,
        tenant: str,
        owner: str,
        role: str,
        aliases: Iterable[str] | None = None,
        purpose: str = "serve",
        expires_at: float | None = None,
        limits: KeyLimits = NO_LIMITS,
        idempotency_key: str | None = None,
    ) -> tuple[str, Key]:
        """Make a key and give its secret, which cannot be had again.

        `aliases` None allows every alias of the tenant; `expires_at` is in seconds since the
        epoch. Raises `InvalidRequest` for an unknown role or purpose and for limits of a key for
        evaluation, `InvalidName`, and `Conflict` where the tenant has a key that was made with this
        `idempotency_key`: its secret is not kept, so it cannot be told again.
        """
        if role not in ROLES:
            raise InvalidRequest(f"role must be one of {', '.join(ROLES)}.", param="role")
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose")
        _check_limits(purpose, _columns(limits))
        values = {
            "tenant": check_name(tenant, "tenant"),
            "owner": owner,
            "role": role,
            "aliases": None if aliases is None else _allowed(aliases),
            "purpose": purpose,
            "expires_at": expires_at,
            "idempotency_key": idempotency_key,
            **_columns(limits),
        }
        with self._change() as connection:
            if idempotency_key is not None:
                _check_new(connection, tenant, idempotency_key)
            return self._make(connection, values)

    def rotate_key(self, tenant: str, key_id: int, overlap_s: float) -> tuple[str, Key]:
        """Make a key that may do the same, and let the old one expire after `overlap_s` seconds.

        Both count on one account, so rotating gives no second budget. Raises `KeyNotFound`, and
        `Conflict` for a key that is no longer valid.
        """
        with self._change() as connection:
            old = _found(connection, tenant, key_id)
            now = self._clock(connection)
            if old.revoked_at is not None or (old.expires_at or now + 1) <= now:
                raise Conflict("This key is not valid any more: make a new one.")
            ends = now + overlap_s
            until = ends if old.expires_at is None else min(ends, old.expires_at)
            writes.update_key(connection, old.id, {"expires_at": until})
            kept = (*_ROTATED, *_LIMITS)
            values = {name: getattr(old, name) for name in kept}
            return self._make(connection, {**values, "account": old.account or old.id})

    def limit_key(self, tenant: str, key_id: int, limits: KeyLimits) -> KeyInfo:
        """Change what the keys of a key's account may use: it and those that it was rotated with.

        Raises `KeyNotFound`, and `InvalidRequest` for limits of a key for evaluation.
        """
        return self.change_key(tenant, key_id, _columns(limits))

    def change_key(self, tenant: str, key_id: int, changes: Mapping[str, Any]) -> KeyInfo:
        """Change a key: its `expires_at`; and `owner`, `aliases` and limits of its whole account.

        What is not in `changes` stays. Raises `KeyNotFound`, `InvalidName`, `InvalidRequest` for
        limits of a key for evaluation, and `Conflict` for the expiry of a revoked key.
        """
        account = {name: value for name, value in changes.items() if name != "expires_at"}
        if account.get("aliases") is not None:
            account["aliases"] = _allowed(account["aliases"])
        with self._change() as connection:
            row = _found(connection, tenant, key_id)
            _check_limits(row.purpose, account)
            if account:
                writes.update_account(connection, row.account or row.id, account)
            if "expires_at" in changes:
                if row.revoked_at is not None:
                    raise Conflict("This key is revoked for good: make a new one.")
                writes.update_key(connection, row.id, {"expires_at": changes["expires_at"]})
            writes.bump_revision(connection)
            return repository.key_info_of(_found(connection, tenant, key_id))

    def get_key(self, tenant: str, key_id: int) -> KeyInfo:
        """Give a key of the tenant, a revoked one too. Raises `KeyNotFound`."""
        with self._read() as connection:
            return repository.key_info_of(_found(connection, tenant, key_id))

    def keys_of_account(self, account: int) -> tuple[int, ...]:
        """Give the ids of all keys that count on one account, the revoked ones too."""
        with self._read() as connection:
            query = select(KEYS.c.id).where(on_account(account)).order_by(KEYS.c.id)
            return tuple(connection.scalars(query))

    def _make(self, connection: Connection, values: Mapping[str, Any]) -> tuple[str, Key]:
        """Insert a key with a new secret."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        made = {
            **values,
            "sha256": digest(secret),
            "prefix": secret[:_SHOWN],
            "created_at": self._clock(connection),
            "revoked_at": None,
        }
        key_id = writes.insert_key(connection, made)
        writes.bump_revision(connection)
        row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one()
        return secret, repository.key_of(row)

    def list_keys(self, tenant: str, wanted: WantedKeys = EVERY_KEY) -> tuple[KeyInfo, ...]:
        """Give the tenant's keys, oldest first, the revoked ones too."""
        with self._read() as connection:
            mine = select(KEYS).where(KEYS.c.tenant == tenant)
            query = _narrowed(mine, wanted, self._clock(connection))
            query = query.order_by(KEYS.c.id).limit(wanted.limit)
            return tuple(repository.key_info_of(row) for row in connection.execute(query))

    def revoke_key(self, tenant: str, key_id: int) -> KeyInfo:
        """End a key for good; again is the same. Raises `KeyNotFound`."""
        with self._change() as connection:
            _found(connection, tenant, key_id)
            writes.revoke_key(connection, tenant, key_id, self._clock(connection))
            writes.bump_revision(connection)
            return repository.key_info_of(_found(connection, tenant, key_id))


_ROTATED = ("tenant", "owner", "role", "aliases", "purpose", "expires_at")
_COUNTED = ("requests_per_minute", "tokens_per_minute", "token_budget", "max_parallel")
_LIMITS = tuple(field.name for field in fields(KeyLimits))


def _check_new(connection: Connection, tenant: str, idempotency_key: str) -> None:
    made = (KEYS.c.tenant == tenant, KEYS.c.idempotency_key == idempotency_key)
    row = connection.execute(select(KEYS).where(*made)).one_or_none()
    if row is not None:
        raise Conflict(
            f"Key {row.id} ({row.prefix}...) was made with this Idempotency-Key already. Its secret"
            " was shown then and is not kept: where it is lost, revoke that key, and make one with"
            " another Idempotency-Key."
        )


def _allowed(aliases: Iterable[str]) -> list[str]:
    return sorted({check_name(name) for name in aliases})


def _check_limits(purpose: str, limits: Mapping[str, Any]) -> None:
    given = [name for name in _COUNTED if limits.get(name) is not None]
    if purpose == "evaluation" and given:
        raise InvalidRequest(
            f"A key for evaluation is not limited: leave out {', '.join(given)}.", param=given[0]
        )


def _columns(limits: KeyLimits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in _LIMITS}


def _narrowed(query: Select[Any], wanted: WantedKeys, now: float) -> Select[Any]:
    if wanted.owner is not None:
        query = query.where(KEYS.c.owner == wanted.owner)
    if wanted.role is not None:
        query = query.where(KEYS.c.role == wanted.role)
    if wanted.after is not None:
        query = query.where(KEYS.c.id > wanted.after)
    lives = KEYS.c.revoked_at.is_(None)
    match wanted.state:
        case "valid":
            return query.where(lives, or_(KEYS.c.expires_at.is_(None), KEYS.c.expires_at > now))
        case "expired":
            return query.where(lives, KEYS.c.expires_at <= now)
        case "revoked":
            return query.where(KEYS.c.revoked_at.is_not(None))
        case None:
            return query
        case _:
            assert_never(wanted.state)


def _found(connection: Connection, tenant: str, key_id: int) -> Row[Any]:
    """Give a key of the tenant as it is stored. Raises `KeyNotFound`."""
    query = select(KEYS).where(KEYS.c.tenant == tenant, KEYS.c.id == key_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise KeyNotFound
    return row
