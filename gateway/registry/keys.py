"""API keys: made once, shown once, kept as digests."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from sqlalchemy import select

from gateway.errors import InvalidRequest
from gateway.registry import repository, writes
from gateway.registry.errors import KeyNotFound
from gateway.registry.names import check_name
from gateway.registry.records import PURPOSES, ROLES, KeyInfo
from gateway.registry.snapshot import Key
from gateway.registry.store import Store
from gateway.registry.tables import KEYS

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
    ) -> tuple[str, Key]:
        """Make a key and give its secret, which cannot be had again.

        `aliases` None allows every alias of the tenant; `expires_at` is in seconds since the
        epoch. Raises `InvalidRequest` for an unknown role or purpose, `InvalidName`.
        """
        if role not in ROLES:
            raise InvalidRequest(f"role must be one of {', '.join(ROLES)}.", param="role")
        if purpose not in PURPOSES:
            raise InvalidRequest(f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose")
        allowed = None if aliases is None else sorted({check_name(name) for name in aliases})
        secret = _PREFIX + secrets.token_urlsafe(32)
        with self._change() as connection:
            key_id = writes.insert_key(
                connection,
                {
                    "tenant": check_name(tenant, "tenant"),
                    "owner": owner,
                    "role": role,
                    "sha256": digest(secret),
                    "prefix": secret[:_SHOWN],
                    "aliases": allowed,
                    "purpose": purpose,
                    "expires_at": expires_at,
                    "created_at": self._clock(connection),
                    "revoked_at": None,
                },
            )
            writes.bump_revision(connection)
            row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one()
        return secret, repository.key_of(row)

    def list_keys(self, tenant: str) -> tuple[KeyInfo, ...]:
        """Give the tenant's keys, oldest first, the revoked ones too."""
        with self._read() as connection:
            query = select(KEYS).where(KEYS.c.tenant == tenant).order_by(KEYS.c.id)
            return tuple(repository.key_info_of(row) for row in connection.execute(query))

    def revoke_key(self, tenant: str, key_id: int) -> KeyInfo:
        """End a key for good; again is the same. Raises `KeyNotFound`."""
        mine = select(KEYS).where(KEYS.c.tenant == tenant, KEYS.c.id == key_id)
        with self._change() as connection:
            if connection.execute(mine).one_or_none() is None:
                raise KeyNotFound
            writes.revoke_key(connection, tenant, key_id, self._clock(connection))
            writes.bump_revision(connection)
            return repository.key_info_of(connection.execute(mine).one())
