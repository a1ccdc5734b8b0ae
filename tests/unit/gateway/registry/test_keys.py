"""Keys: shown once, stored as digests, ended for good."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from sqlalchemy import text

from gateway.errors import Conflict, InvalidRequest
from gateway.registry.errors import InvalidName, KeyNotFound
from gateway.registry.keys import digest
from gateway.registry.service import Registry
from gateway.registry.snapshot import KeyLimits

from .conftest import Clock


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


LIMITS = KeyLimits(
    requests_per_minute=60, tokens_per_minute=9000, token_budget=10**12, max_parallel=8
)


def test_limits_are_kept_and_replaced(registry: Registry) -> None:
    secret, key = registry.create_key(tenant="default", owner="a", role="app", limits=LIMITS)
    assert registry.snapshot().keys[digest(secret)].limits == LIMITS
    before = registry.revision()
    fewer = KeyLimits(token_budget=5, budget_period="day")
    assert registry.limit_key("default", key.id, fewer).key.limits == fewer
    assert registry.snapshot().keys[digest(secret)].limits == fewer
    assert registry.revision() == before + 1
    for tenant, key_id in (("other", key.id), ("default", 99)):
        with pytest.raises(KeyNotFound):
            registry.limit_key(tenant, key_id, LIMITS)


def test_rotating_makes_a_key_that_may_do_the_same(registry: Registry, clock: Clock) -> None:
    secret, old = registry.create_key(
        tenant="default", owner="shop", role="app", aliases=["support"], limits=LIMITS
    )
    other, new = registry.rotate_key("default", old.id, 3600)
    assert other != secret
    assert new == replace(old, id=new.id, account=old.id)
    snapshot = registry.snapshot()
    assert snapshot.keys[digest(secret)].expires_at == clock.now + 3600
    assert snapshot.keys[digest(other)].expires_at is None


def test_all_keys_of_a_line_count_on_one_account(registry: Registry) -> None:
    _, first = registry.create_key(tenant="default", owner="a", role="app")
    _, second = registry.rotate_key("default", first.id, 0)
    _, third = registry.rotate_key("default", second.id, 0)
    _, stranger = registry.create_key(tenant="default", owner="b", role="app")
    assert {first.account, second.account, third.account} == {first.id}
    registry.revoke_key("default", second.id)
    assert registry.keys_of_account(first.id) == (first.id, second.id, third.id)
    assert registry.keys_of_account(stranger.id) == (stranger.id,)


def test_limits_hold_for_all_keys_of_an_account(registry: Registry) -> None:
    _, first = registry.create_key(tenant="default", owner="a", role="app")
    _, second = registry.rotate_key("default", first.id, 3600)
    _, third = registry.rotate_key("default", second.id, 3600)
    _, stranger = registry.create_key(tenant="default", owner="b", role="app")
    for changed, limits in ((second, LIMITS), (first, KeyLimits(priority="low"))):
        assert registry.limit_key("default", changed.id, limits).key.id == changed.id
        found = {key.id: key.limits for key in registry.snapshot().keys.values()}
        assert {found.pop(key.id) for key in (first, second, third)} == {limits}
        assert found == {stranger.id: KeyLimits()}


def test_a_key_for_evaluation_has_no_limits(registry: Registry) -> None:
    _, key = registry.create_key(
        tenant="default",
        owner="a",
        role="app",
        purpose="evaluation",
        limits=KeyLimits(priority="low"),  # which holds for it too
    )
    limits = KeyLimits(tokens_per_minute=5, max_parallel=9)
    with pytest.raises(InvalidRequest, match="leave out tokens_per_minute, max_parallel") as found:
        registry.limit_key("default", key.id, limits)
    assert found.value.param == "tokens_per_minute"
    with pytest.raises(InvalidRequest, match="is not limited"):
        registry.create_key(
            tenant="default", owner="a", role="app", purpose="evaluation", limits=LIMITS
        )
    assert registry.limit_key("default", key.id, KeyLimits()).key.limits == KeyLimits()


def test_rotating_gives_no_key_a_longer_life(registry: Registry, clock: Clock) -> None:
    ends = clock.now + 60
    _, old = registry.create_key(tenant="default", owner="a", role="app", expires_at=ends)
    _, new = registry.rotate_key("default", old.id, 3600)
    assert new.expires_at == ends
    assert [info.key.expires_at for info in registry.list_keys("default")] == [ends, ends]


def test_a_key_that_is_over_is_not_rotated(registry: Registry, clock: Clock) -> None:
    _, revoked = registry.create_key(tenant="default", owner="a", role="app")
    registry.revoke_key("default", revoked.id)
    _, expired = registry.create_key(
        tenant="default", owner="a", role="app", expires_at=clock.now + 60
    )
    clock.now += 60
    for key in (revoked, expired):
        with pytest.raises(Conflict, match="not valid any more"):
            registry.rotate_key("default", key.id, 60)
    with pytest.raises(KeyNotFound):
        registry.rotate_key("other", expired.id, 60)
    assert len(registry.list_keys("default")) == 2


def test_a_keys_priority_is_kept_through_rotation(registry: Registry) -> None:
    low = KeyLimits(priority="low")
    secret, key = registry.create_key(tenant="default", owner="a", role="app", limits=low)
    assert registry.snapshot().keys[digest(secret)].limits == low
    assert not key.limits.any  # so no counter is asked
    secret, _ = registry.rotate_key("default", key.id, 60)
    assert registry.snapshot().keys[digest(secret)].limits.priority == "low"
    assert registry.limit_key("default", key.id, KeyLimits()).key.limits.priority == "normal"
