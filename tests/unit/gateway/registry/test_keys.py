"""Keys: shown once, stored as digests, ended for good."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from gateway.errors import InvalidRequest
from gateway.registry.errors import InvalidName, KeyNotFound
from gateway.registry.keys import digest
from gateway.registry.service import Registry
from gateway.registry.snapshot import KeyLimits


def test_a_key_is_found_by_its_digest_only(registry: Registry) -> None:
    before = registry.revision()
    secret, key = registry.create_key(
        tenant="default", owner="ann", role="app", aliases=["support", "support"], expires_at=2e9
    )
    assert re.fullmatch(r"sk-al-[A-Za-z0-9_-]{32,}", secret)
    assert (key.owner, key.role, key.purpose) == ("ann", "app", "serve")
    assert (key.aliases, key.expires_at) == (frozenset({"support"}), 2e9)
    snapshot = registry.snapshot()
    assert snapshot.keys == {digest(secret): key}
    assert snapshot.revision == before + 1
    with registry._engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM api_keys")).all())
    assert secret not in stored
    (info,) = registry.list_keys("default")
    assert secret.startswith(info.prefix)
    assert len(info.prefix) < 16


def test_null_aliases_are_all_and_none_listed_are_none(registry: Registry) -> None:
    _, every = registry.create_key(tenant="default", owner="a", role="admin")
    _, none = registry.create_key(tenant="default", owner="a", role="app", aliases=[])
    assert every.aliases is None
    assert none.aliases == frozenset()


def test_revoking(registry: Registry) -> None:
    secret, key = registry.create_key(tenant="default", owner="a", role="app")
    with pytest.raises(KeyNotFound):
        registry.revoke_key("other", key.id)
    revoked = registry.revoke_key("default", key.id)
    assert revoked.revoked_at is not None
    assert digest(secret) not in registry.snapshot().keys
    assert registry.revoke_key("default", key.id).revoked_at == revoked.revoked_at
    assert [info.key.id for info in registry.list_keys("default")] == [key.id]
    assert registry.list_keys("other") == ()


def test_what_is_no_key(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="role must be one of"):
        registry.create_key(tenant="default", owner="a", role="root")
    with pytest.raises(InvalidRequest, match="purpose must be one of"):
        registry.create_key(tenant="default", owner="a", role="app", purpose="fun")
    with pytest.raises(InvalidName, match="tenant"):
        registry.create_key(tenant="*", owner="a", role="app")
    with pytest.raises(InvalidName):
        registry.create_key(tenant="default", owner="a", role="app", aliases=["NO"])
    assert registry.snapshot().keys == {}


def test_a_keys_priority_is_kept_through_rotation(registry: Registry) -> None:
    low = KeyLimits(priority="low")
    secret, key = registry.create_key(tenant="default", owner="a", role="app", limits=low)
    assert registry.snapshot().keys[digest(secret)].limits == low
    assert not key.limits.any  # so no counter is asked
    secret, _ = registry.rotate_key("default", key.id, 60)
    assert registry.snapshot().keys[digest(secret)].limits.priority == "low"
    assert registry.limit_key("default", key.id, KeyLimits()).key.limits.priority == "normal"
