"""Limits of keys: minutes that slide, budgets by the calendar, and a Redis that may go away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    BudgetSpent,
    LimitsUnavailable,
    Overloaded,
    RequestsExceeded,
    StoreUnavailable,
    TokensExceeded,
)
from gateway.limiting import Grant, Limiter, told_seconds
from gateway.registry.snapshot import Key, KeyLimits

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
AWAY = "redis://127.0.0.1:1/0"


def key(account: int = 1, **limits: int | str) -> Key:
    return Key(
        id=account,
        tenant="default",
        owner="shop",
        role="app",
        aliases=None,
        expires_at=None,
        limits=KeyLimits(**limits),  # type: ignore[arg-type]
        account=account,
    )


class Clock:
    """The wall clock, moved by hand; a minute begins at noon."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now

    def at(self, *day: int) -> None:
        self.now = datetime(*day, tzinfo=UTC).timestamp()  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@dataclass
class Store:
    """What the database says was used; `away` for a database that does not answer."""

    used: int = 0
    away: bool = False
    asked: list[tuple[int, str]] = field(default_factory=list)

    async def __call__(self, account: int, since: str) -> int:
        self.asked.append((account, since))
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable
        return self.used


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def limiter(clock: Clock, store: Store) -> Limiter:
    return Limiter("memory://", store)


def told(grant: Grant | Overloaded) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in grant.headers}


async def call(limiter: Limiter, of: Key, reserved: int, used: int) -> Grant:
    """A whole call: so much reserved, so much used."""
    grant = await limiter.take(of, reserved)
    await limiter.settle(grant, used)
    return grant


async def test_requests_a_minute(limiter: Limiter, clock: Clock) -> None:
    mine = key(requests_per_minute=3)
    for left in ("2", "1", "0"):
        assert told(await call(limiter, mine, 100, 10)) == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": left,
            "x-ratelimit-reset-requests": "2m0s",
        }
    with pytest.raises(RequestsExceeded) as refused:
        await limiter.take(mine, 100)
    assert refused.value.retry_after == 61
    assert "3 requests a minute" in refused.value.message
    assert told(refused.value)["x-ratelimit-remaining-requests"] == "0"
    clock.now += 60
    with pytest.raises(RequestsExceeded):
        await limiter.take(mine, 100)
    clock.now += 1
    await limiter.take(mine, 100)


async def test_tokens_are_reserved_and_settled(limiter: Limiter) -> None:
    mine = key(tokens_per_minute=1000)
    first = await limiter.take(mine, 700)
    assert told(first)["x-ratelimit-remaining-tokens"] == "300"
    with pytest.raises(TokensExceeded, match="1000 tokens a minute"):
        await limiter.take(mine, 700)
    await limiter.settle(first, 50)
    assert told(await limiter.take(mine, 700))["x-ratelimit-remaining-tokens"] == "250"


async def test_a_call_larger_than_the_limit_waits_for_a_whole_minute(limiter: Limiter) -> None:
    mine = key(tokens_per_minute=100)
    assert told(await limiter.take(mine, 5000))["x-ratelimit-remaining-tokens"] == "0"


async def test_what_a_call_used_beyond_its_reservation_counts(limiter: Limiter) -> None:
    mine = key(tokens_per_minute=1000)
    await call(limiter, mine, 10, 990)
    assert told(await limiter.take(mine, 5))["x-ratelimit-remaining-tokens"] == "5"


async def test_nothing_is_given_back_into_another_minute(limiter: Limiter, clock: Clock) -> None:
    """Else calls that end after the turn of a minute would make room for more than the limit."""
    mine = key(tokens_per_minute=1000)
    clock.now += 59
    grant = await limiter.take(mine, 1000)
    clock.now += 2
    await limiter.settle(grant, 1)
    clock.now += 58
    assert told(await limiter.take(mine, 900))["x-ratelimit-remaining-tokens"] == "84"


async def test_a_call_of_no_tokens_needs_none(limiter: Limiter) -> None:
    mine = key(requests_per_minute=9, tokens_per_minute=10, token_budget=10)
    await call(limiter, mine, 10, 10)
    with pytest.raises(TokensExceeded):
        await limiter.take(mine, 10)
    grant = await limiter.take(mine, 0)
    assert set(told(grant)) == {
        f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")
    }


async def test_rotated_keys_share_an_account(limiter: Limiter) -> None:
    old, new = key(requests_per_minute=1), key(requests_per_minute=1)
    await limiter.take(old, 1)
    with pytest.raises(RequestsExceeded):
        await limiter.take(new, 1)
    await limiter.take(key(account=2, requests_per_minute=1), 1)


@pytest.mark.parametrize(
    ("period", "since", "next_day", "begins"),
    [
        ("day", "2026-11-24", (2026, 11, 25), "2026-11-25"),
        ("month", "2026-11-01", (2026, 12, 1), "2026-12-01"),
    ],
)
async def test_a_budget_lasts_for_its_period(
    limiter: Limiter,
    clock: Clock,
    store: Store,
    period: str,
    since: str,
    next_day: tuple[int, ...],
    begins: str,
) -> None:
    mine = key(token_budget=100, budget_period=period)
    await call(limiter, mine, 100, 100)
    assert store.asked == [(1, since)]
    with pytest.raises(BudgetSpent, match=rf"begins again on {begins} \(UTC\)") as refused:
        await limiter.take(mine, 1)
    clock.at(*next_day)
    assert refused.value.retry_after == clock.now - NOON
    assert (b"x-should-retry", b"false") in refused.value.headers
    clock.now -= 1
    with pytest.raises(BudgetSpent):
        await limiter.take(mine, 1)
    clock.now += 1
    await limiter.take(mine, 1)


async def test_december_ends_with_the_year(limiter: Limiter, clock: Clock) -> None:
    clock.at(2026, 12, 31, 23)
    mine = key(token_budget=1)
    await call(limiter, mine, 1, 1)
    with pytest.raises(BudgetSpent, match="2027-01-01"):
        await limiter.take(mine, 1)


async def test_a_budget_begins_with_what_the_database_counted(
    limiter: Limiter, store: Store
) -> None:
    store.used = 95
    mine = key(token_budget=100)
    await call(limiter, mine, 10, 4)
    await call(limiter, mine, 10, 1)
    with pytest.raises(BudgetSpent):
        await limiter.take(mine, 10)
    assert len(store.asked) == 1


async def test_many_calls_at_once_begin_a_budget_once(limiter: Limiter, store: Store) -> None:
    store.used = 50
    mine = key(token_budget=1000)
    grants = await asyncio.gather(*(limiter.take(mine, 10) for _ in range(8)))
    await asyncio.gather(*(limiter.settle(grant, 10) for grant in grants))
    await call(limiter, mine, 870, 869)
    await call(limiter, mine, 1, 1)
    with pytest.raises(BudgetSpent):
        await limiter.take(mine, 1)


async def test_a_call_that_looked_before_a_budget_began_does_not_begin_it_again(
    limiter: Limiter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted twice, for a moment only, is a budget that other calls find spent."""
    mine, get = key(token_budget=100), limiter._local.get
    looked, begun = asyncio.Event(), asyncio.Event()

    async def get_late(name: str) -> int:
        found = await get(name)
        if not looked.is_set():
            looked.set()
            await begun.wait()
        return found

    monkeypatch.setattr(limiter._local, "get", get_late)
    late = asyncio.ensure_future(limiter.take(mine, 10))
    await looked.wait()
    await call(limiter, mine, 10, 10)
    begun.set()
    await late
    assert len(store.asked) == 1


async def test_a_database_that_is_away_is_not_taken_for_an_unused_budget(
    limiter: Limiter, store: Store
) -> None:
    """None of the calls that come meanwhile is let through, and later ones see what was used."""
    store.used, store.away = 100, True
    mine = key(token_budget=100, tokens_per_minute=1000)
    answers = await asyncio.gather(
        *(limiter.take(mine, 10) for _ in range(3)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [LimitsUnavailable] * 3
    store.away = False
    with pytest.raises(BudgetSpent) as refused:
        await limiter.take(mine, 10)
    # What was refused costs the minute nothing.
    assert told(refused.value)["x-ratelimit-remaining-tokens"] == "990"


async def test_calls_under_way_are_no_spent_budget(limiter: Limiter) -> None:
    """Clients try again soon after the one, and not before next month after the other."""
    mine = key(token_budget=100)
    grant = await limiter.take(mine, 5000)
    with pytest.raises(Overloaded, match="calls under way") as refused:
        await limiter.take(mine, 1)
    assert (refused.value.code, refused.value.retry_after) == ("rate_limit_exceeded", 1)
    await limiter.settle(grant, 99)
    await call(limiter, mine, 1, 1)
    with pytest.raises(BudgetSpent):
        await limiter.take(mine, 1)


async def test_without_redis_minutes_are_counted_here_and_budgets_are_refused(
    store: Store, clock: Clock
) -> None:
    limiter = Limiter(AWAY, store)
    mine = key(requests_per_minute=1, tokens_per_minute=100)
    grant = await limiter.take(mine, 60)
    assert told(grant)["x-ratelimit-remaining-tokens"] == "40"
    await limiter.settle(grant, 10)
    with pytest.raises(RequestsExceeded):
        await limiter.take(mine, 1)
    budgeted = key(account=2, token_budget=100, tokens_per_minute=100)
    for _ in range(2):
        with pytest.raises(LimitsUnavailable) as refused:
            await limiter.take(budgeted, 100)
        assert (refused.value.status, refused.value.retry_after) == (503, 5)
    assert store.asked == []
    await limiter.take(key(account=2, token_budget=100), 0)
    await limiter.close()


def test_redis_is_named_where_its_client_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(Exception, match="redis"):
        Limiter(AWAY, Store())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (5.2, "6s"), (59.5, "1m0s"), (61, "1m1s")],
)
def test_times_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert told_seconds(seconds) == text


@given(st.integers(1, 500), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.data())
def test_a_refused_call_passes_when_it_is_told_to_come_again(
    limit: int, calls: list[int], data: st.DataObject
) -> None:
    """And not a second earlier than the one before; so no client waits for longer than it must."""
    clock = Clock()
    clock.now += data.draw(st.integers(0, 59))
    costs = iter([min(cost, limit) for cost in calls])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        asyncio.run(_come_again(Limiter("memory://", Store()), clock, limit, costs, data))


async def _come_again(
    limiter: Limiter, clock: Clock, limit: int, costs: Iterator[int], data: st.DataObject
) -> None:
    mine = key(tokens_per_minute=limit)
    for cost in costs:
        clock.now += data.draw(st.integers(0, 90))
        try:
            await limiter.take(mine, cost)
        except TokensExceeded as refused:
            wait = refused.retry_after or 0
            clock.now += wait - 1.001
            if wait > 1:
                with pytest.raises(TokensExceeded):
                    await limiter.take(mine, cost)
            clock.now += 1.001
            await limiter.take(mine, cost)


async def test_a_budget_that_no_call_draws_on_now_is_not_held(
    limiter: Limiter, clock: Clock
) -> None:
    grants = [await limiter.take(key(n, token_budget=100), 10) for n in (1, 1, 2)]
    assert limiter._held.total() == 30
    for grant in grants:
        await limiter.settle(grant, 5)
    assert len(limiter._held) == 0
