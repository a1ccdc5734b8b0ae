"""Limits of keys: requests and tokens a minute, and token budgets; counted by `limits`.

A minute is a sliding window (the counter of the last minute fades out linearly); a budget is for a
calendar day or month in UTC. Tokens are reserved before a call and settled after it. Counters lie
in this process, or in Redis where several gateways share them. While Redis is away, each gateway
counts minutes by itself, and keys with a budget are refused with 503.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, SlidingWindowCounterSupport
from limits.errors import StorageError

from gateway.errors import (
    BudgetSpent,
    GatewayError,
    LimitsUnavailable,
    RequestsExceeded,
    TokensExceeded,
)
from gateway.registry.snapshot import Key

logger = logging.getLogger(__name__)

Storage = MemoryStorage | RedisStorage
Spent = Callable[[int, str], Awaitable[int]]
"""Gives the tokens that an account has used from a day (`2026-11-01`) on."""

_MINUTE = 60
_NO_BOUND = 2**53
_DAY = 86_400
_AWAY_S = 1.0
"""Seconds for which a store that failed is not asked again."""


@dataclass(slots=True)
class Grant:
    """A call that was let through, and what was reserved for it; to be settled once."""

    key: Key
    reserved: int
    period: str
    headers: list[tuple[bytes, bytes]]


class Window(NamedTuple):
    """A sliding minute: the counts of the last window and of this one, and how long they live."""

    previous: int
    previous_ttl: float
    current: int
    current_ttl: float

    @property
    def used(self) -> int:
        """What counts now."""
        return math.floor(self.previous * self.previous_ttl / _MINUTE + self.current)

    def frees_in(self, amount: int) -> float:
        """Give the seconds until `amount` of what counts now has faded, if nothing is added."""
        if amount <= 0:
            return 0.0
        fading = self.previous * max(0.0, self.previous_ttl) / _MINUTE
        if amount <= fading:
            return amount * _MINUTE / self.previous
        turn = max(0.0, self.current_ttl - _MINUTE)
        if self.current <= 0:
            return turn
        return turn + _MINUTE * min(1.0, (amount - fading) / self.current)


class Limiter:
    """Holds keys to their limits. `spent` tells what was used before these counters began."""

    def __init__(self, url: str, spent: Spent) -> None:
        self._local = MemoryStorage()
        self._shared: Storage = self._local if url == "memory://" else _redis(url)
        self._spent = spent
        self._back_at = 0.0

    async def take(self, key: Key, tokens: int) -> Grant:
        """Count a call that will use about so many tokens.

        Raises `RequestsExceeded`, `TokensExceeded`, `BudgetSpent`, or `LimitsUnavailable`; their
        `headers` and the grant's are OpenAI's rate-limit headers.
        """
        limits = key.limits
        most = min(limits.tokens_per_minute or _NO_BOUND, limits.token_budget or _NO_BOUND)
        grant = Grant(key, min(tokens, most), _period(limits.budget_period), [])
        if self._away:
            await self._minutes(self._local, grant)
            if limits.token_budget is not None:
                raise LimitsUnavailable
            return grant
        try:
            await self._minutes(self._shared, grant)
            if limits.token_budget is not None:
                await self._reserve(grant, limits.token_budget)
        except StorageError as error:
            self._lost(error)
            return await self.take(key, tokens)
        return grant

    async def settle(self, grant: Grant, used: int) -> None:
        """Put what a call has really used in the place of what was reserved."""
        rest = used - grant.reserved
        if rest == 0:
            return
        storage = self._local if self._away else self._shared
        limits = grant.key.limits
        try:
            if limits.tokens_per_minute is not None:
                await _sliding(storage).acquire_sliding_window_entry(
                    _name(grant.key, "tokens"), _NO_BOUND, _MINUTE, rest
                )
            if limits.token_budget is not None and not self._away:
                await storage.incr(_budget(grant), _lifetime(grant.period), rest)
        except StorageError as error:
            self._lost(error)

    @property
    def _away(self) -> bool:
        return self._back_at > time.monotonic()

    def _lost(self, error: Exception) -> None:
        logger.warning("the store of limits does not answer: %s", error)
        self._back_at = time.monotonic() + _AWAY_S

    async def _minutes(self, storage: Storage, grant: Grant) -> None:
        """Count a request and its tokens in the sliding minute, and fill in the headers."""
        limits = grant.key.limits
        for kind, limit, cost, failure in (
            ("requests", limits.requests_per_minute, 1, RequestsExceeded),
            ("tokens", limits.tokens_per_minute, grant.reserved, TokensExceeded),
        ):
            if limit is None:
                continue
            name = _name(grant.key, kind)
            sliding = _sliding(storage)
            taken = await sliding.acquire_sliding_window_entry(name, limit, _MINUTE, cost)
            window = Window(*await sliding.get_sliding_window(name, _MINUTE))
            grant.headers += _headers(kind, limit, window)
            if not taken:
                wait = window.frees_in(window.used + cost - limit)
                raise _refused(failure, grant, limit, kind, wait)

    async def _reserve(self, grant: Grant, budget: int) -> None:
        """Reserve tokens of the budget; the last call may go past it by what it uses."""
        name, life = _budget(grant), _lifetime(grant.period)
        total = await self._shared.incr(name, life, grant.reserved)
        if total == grant.reserved:
            # A counter that has just begun: what was used before is in the database.
            try:
                before = await self._spent(grant.key.account, _first_day(grant.period))
            except GatewayError:
                await self._shared.incr(name, life, -grant.reserved)
                raise LimitsUnavailable from None
            if before:
                total = await self._shared.incr(name, life, before)
        if total - grant.reserved >= budget:
            await self._shared.incr(name, life, -grant.reserved)
            raise _spent_error(grant, budget)


def told_seconds(seconds: float) -> str:
    """Write a time as OpenAI does: `120ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _headers(kind: str, limit: int, window: Window) -> list[tuple[bytes, bytes]]:
    left = max(0, limit - window.used)
    told = {
        "limit": str(limit),
        "remaining": str(left),
        "reset": told_seconds(window.frees_in(window.used)),
    }
    return [(f"x-ratelimit-{what}-{kind}".encode(), text.encode()) for what, text in told.items()]


def _refused(
    failure: type[GatewayError], grant: Grant, limit: int, kind: str, wait: float
) -> GatewayError:
    error = failure(
        f"This key may use {limit} {kind} a minute, and this call would go past that: try again in"
        f" {told_seconds(wait)}.",
        retry_after=max(1, math.ceil(wait)),
    )
    error.headers = grant.headers
    return error


def _spent_error(grant: Grant, budget: int) -> GatewayError:
    period = grant.key.limits.budget_period
    wait = math.ceil(_lifetime(grant.period) - _DAY)
    error = BudgetSpent(
        f"This key has used its budget of {budget} tokens for this {period}; it begins again in"
        f" {told_seconds(wait)}.",
        retry_after=max(1, wait),
    )
    # The `openai` clients would otherwise try again at once.
    error.headers = [*grant.headers, (b"x-should-retry", b"false")]
    return error


def _redis(url: str) -> RedisStorage:
    return RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="adapterloop",
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
    )


def _sliding(storage: Storage) -> SlidingWindowCounterSupport:
    return cast(SlidingWindowCounterSupport, storage)


def _name(key: Key, kind: str) -> str:
    return RateLimitItemPerMinute(1, namespace=kind).key_for(str(key.account))


def _budget(grant: Grant) -> str:
    return f"budget/{grant.key.account}/{grant.period}"


def _period(kind: str) -> str:
    """Name the running period: `2026-11-24` or `2026-11`."""
    return datetime.now(UTC).strftime("%Y-%m-%d" if kind == "day" else "%Y-%m")


def _first_day(period: str) -> str:
    return period if len(period) == len("2026-11-24") else f"{period}-01"


def _lifetime(period: str) -> int:
    """Give the seconds for which a period's counter is kept: to its end, and a day."""
    first = datetime.fromisoformat(_first_day(period)).replace(tzinfo=UTC)
    if period == _first_day(period):
        end = first.timestamp() + _DAY
    else:
        months = first.year * 12 + first.month
        end = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()
    return max(1, math.ceil(end - time.time())) + _DAY
