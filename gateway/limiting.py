"""Limits of keys: requests and tokens a minute, and token budgets; counted by `limits`.

A minute is a sliding window (the counter of the last minute fades out linearly); a budget is for a
calendar day or month in UTC. Tokens are reserved before a call and settled after it; a call that
uses none is held to the requests only. Counters lie in this process, or in Redis where several
gateways share them. While Redis is away, each gateway counts minutes by itself, and calls that need
a budget are refused with 503. Where what a call has used cannot be settled, it counts as reserved.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, SlidingWindowCounterSupport
from limits.errors import StorageError

from gateway.errors import (
    BudgetSpent,
    GatewayError,
    LimitsUnavailable,
    Overloaded,
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
_PATIENCE_S = 0.5
"""Seconds that Redis may take over a command or a connection."""
_AWAY_S = 1.0
"""Seconds for which a store that failed is not asked again."""
_BEGIN_S = 2
"""Seconds that one call has for the beginning of a budget, before another takes over."""
_LOOK_S = 0.01
_BEGUN = 2**50
"""A budget's counter holds this much more once what was used before is in it: so one that a store
has lost is told from one that is low, and is begun again."""


@dataclass(slots=True)
class Grant:
    """A call that was let through, and what was reserved for it; to be settled once.

    `storage` is where it was counted; `minute_ends`, in seconds since the epoch, when the counter
    of its minute begins to fade.
    """

    key: Key
    reserved: int
    period: str
    storage: Storage
    headers: list[tuple[bytes, bytes]]
    minute_ends: float = 0.0

    @property
    def budget(self) -> int | None:
        """The budget that it draws on."""
        return self.key.limits.token_budget if self.reserved else None


class Window(NamedTuple):
    """A sliding minute: the counts of the last window and of this one, and how long they live."""

    previous: int
    previous_ttl: float
    current: int
    current_ttl: float

    @property
    def weight(self) -> float:
        """What has not faded yet; the whole part of it counts."""
        return self._fading + self.current

    def frees_in(self, amount: float) -> float:
        """Give the seconds after which more than `amount` has faded, if nothing is added."""
        if amount < 0:
            return 0.0
        fading = self._fading
        if fading and amount <= fading:
            return amount * _MINUTE / self.previous
        if self.current <= 0:
            return self.turns_in
        return self.turns_in + _MINUTE * min(1.0, (amount - fading) / self.current)

    @property
    def _fading(self) -> float:
        return self.previous * max(0.0, self.previous_ttl) / _MINUTE

    @property
    def turns_in(self) -> float:
        """The seconds until this window is the last one."""
        return max(0.0, self.current_ttl - _MINUTE)


class Limiter:
    """Holds keys to their limits. `spent` tells what was used before these counters began."""

    def __init__(self, url: str, spent: Spent) -> None:
        self._local = MemoryStorage()
        self._redis = None if url == "memory://" else _redis(url)
        self._spent = spent
        self._held: Counter[str] = Counter()
        self._back_at = 0.0

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await cast(Any, self._redis.bridge).get_connection().aclose()

    async def take(self, key: Key, tokens: int) -> Grant:
        """Count a call that will use about so many tokens.

        Raises `RequestsExceeded`, `TokensExceeded`, `BudgetSpent`, `Overloaded` while calls under
        way may use the rest of a budget, or `LimitsUnavailable`; their `headers` and the grant's
        are OpenAI's rate-limit headers.
        """
        limits = key.limits
        most = min(limits.tokens_per_minute or _NO_BOUND, limits.token_budget or _NO_BOUND)
        storage = self._local if self._redis is None or self._away else self._redis
        grant = Grant(key, min(tokens, most), _period(limits.budget_period), storage, [])
        try:
            await _count_minute(grant)
            if grant.budget is not None:
                await self._draw(grant, grant.budget)
        except StorageError as error:
            self._lost(error)
            return await self.take(key, tokens)
        return grant

    async def settle(self, grant: Grant, used: int) -> None:
        """Put what a call has really used in the place of what was reserved."""
        if grant.budget is not None:
            name = _budget(grant)
            self._held[name] -= grant.reserved
            if not self._held[name]:
                del self._held[name]  # each day has a name of its own
        rest = used - grant.reserved
        if rest == 0 or (grant.storage is self._redis and self._away):
            return
        try:
            await _settle_minute(grant, rest)
            # One that the store has lost is begun again from the database.
            if grant.budget is not None and await grant.storage.get(_budget(grant)) >= _BEGUN:
                await grant.storage.incr(_budget(grant), _lifetime(grant.period), rest)
        except StorageError as error:
            self._lost(error)

    @property
    def _away(self) -> bool:
        return self._back_at > time.monotonic()

    def _lost(self, error: Exception) -> None:
        logger.warning("the store of limits does not answer: %s", error)
        self._back_at = time.monotonic() + _AWAY_S

    async def _draw(self, grant: Grant, budget: int) -> None:
        """Reserve tokens of the budget; one that cannot be had costs the minute nothing."""
        try:
            if self._redis is not None and grant.storage is not self._redis:
                raise LimitsUnavailable
            await self._reserve(grant, budget)
        except GatewayError:
            await _settle_minute(grant, -grant.reserved)
            raise

    async def _reserve(self, grant: Grant, budget: int) -> None:
        """Reserve tokens of the budget; the last call may go past it by what it uses."""
        name, life, storage = _budget(grant), _lifetime(grant.period), grant.storage
        await self._begun(grant)
        before = await storage.incr(name, life, grant.reserved) - _BEGUN - grant.reserved
        if before < budget:
            self._held[name] += grant.reserved
            return
        await storage.incr(name, life, -grant.reserved)
        if before - self._held[name] < budget:
            raise Overloaded(
                "What is left of this key's budget is reserved for its calls under way: try again"
                " when they have ended."
            )
        raise _spent_error(grant, budget)

    async def _begun(self, grant: Grant) -> None:
        """Return once the budget's counter holds what was used before; one call of all puts it in.

        Raises `LimitsUnavailable`.
        """
        name, storage = _budget(grant), grant.storage
        until = time.monotonic() + _BEGIN_S
        while await storage.get(name) < _BEGUN:
            if await storage.incr(_beginning(grant), _BEGIN_S) == 1:
                await self._begin(grant)
            elif time.monotonic() > until:
                raise LimitsUnavailable
            else:
                await asyncio.sleep(_LOOK_S)

    async def _begin(self, grant: Grant) -> None:
        """Put what was used before, which is in the database, into a counter that is new."""
        name, storage = _budget(grant), grant.storage
        if await storage.get(name) >= _BEGUN:  # another call did it after this one had looked
            await storage.clear(_beginning(grant))
            return
        try:
            before = await self._spent(grant.key.account, _first_day(grant.period))
        except GatewayError:
            await storage.clear(_beginning(grant))
            raise LimitsUnavailable from None
        amount = _BEGUN + before
        if await storage.incr(name, _lifetime(grant.period), amount) >= 2 * _BEGUN:
            # Another call took over meanwhile: the database took longer than a beginning may.
            await storage.incr(name, _lifetime(grant.period), -amount)
        await storage.clear(_beginning(grant))


async def _count_minute(grant: Grant) -> None:
    """Count a request and its tokens in the sliding minute, and fill in the headers."""
    limits, sliding = grant.key.limits, _sliding(grant.storage)
    for kind, limit, cost, failure in (
        ("requests", limits.requests_per_minute, 1, RequestsExceeded),
        ("tokens", limits.tokens_per_minute, grant.reserved, TokensExceeded),
    ):
        if limit is None or not cost:
            continue
        name = _name(grant.key, kind)
        taken = await sliding.acquire_sliding_window_entry(name, limit, _MINUTE, cost)
        window = Window(*await sliding.get_sliding_window(name, _MINUTE))
        grant.headers += _headers(kind, limit, window)
        if not taken:
            # Only whole tokens count: it takes a little more than all but one of what is too much.
            wait = window.frees_in(window.weight + cost - limit - 1)
            raise _refused(failure, grant, limit, kind, wait)
        grant.minute_ends = time.time() + window.turns_in


async def _settle_minute(grant: Grant, rest: int) -> None:
    """Add to the minute's tokens, or give some back while the minute still is that of the call.

    Later they fade by themselves: given back then, they would come out of other calls' minute.
    """
    if grant.key.limits.tokens_per_minute is None:
        return
    if rest > 0 or time.time() < grant.minute_ends:
        await _sliding(grant.storage).acquire_sliding_window_entry(
            _name(grant.key, "tokens"), _NO_BOUND, _MINUTE, rest
        )


def told_seconds(seconds: float) -> str:
    """Write a time as OpenAI does: `120ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _headers(kind: str, limit: int, window: Window) -> list[tuple[bytes, bytes]]:
    left = max(0, limit - math.floor(window.weight))
    told = {
        "limit": str(limit),
        "remaining": str(left),
        "reset": told_seconds(window.frees_in(window.weight)),
    }
    return [(f"x-ratelimit-{what}-{kind}".encode(), text.encode()) for what, text in told.items()]


def _refused(
    failure: type[GatewayError], grant: Grant, limit: int, kind: str, wait: float
) -> GatewayError:
    error = failure(
        f"This key may use {limit} {kind} a minute, and this call would go past that: try again in"
        f" {told_seconds(wait)}.",
        # A store tells times to the millisecond.
        retry_after=math.ceil(wait + 0.001),
    )
    error.headers = grant.headers
    return error


def _spent_error(grant: Grant, budget: int) -> GatewayError:
    period = grant.key.limits.budget_period
    ends = _ends(grant.period)
    error = BudgetSpent(
        f"This key has used its budget of {budget} tokens for this {period}; it begins again on"
        f" {datetime.fromtimestamp(ends, UTC):%Y-%m-%d} (UTC).",
        retry_after=max(1, math.ceil(ends - time.time())),
    )
    # The `openai` clients would otherwise try again at once.
    error.headers = [*grant.headers, (b"x-should-retry", b"false")]
    return error


def _redis(url: str) -> RedisStorage:
    """Connect to Redis; a command that finds its connection closed opens it anew, once."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Closed

    # The library hands its options on as they are, whatever their type.
    retry: Any = Retry(NoBackoff(), 1, supported_errors=(Closed,))
    return RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="adapterloop",
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        retry=retry,
    )


def _sliding(storage: Storage) -> SlidingWindowCounterSupport:
    return cast(SlidingWindowCounterSupport, storage)


def _name(key: Key, kind: str) -> str:
    return RateLimitItemPerMinute(1, namespace=kind).key_for(str(key.account))


def _budget(grant: Grant) -> str:
    return f"budget/{grant.key.account}/{grant.period}"


def _beginning(grant: Grant) -> str:
    return f"{_budget(grant)}/beginning"


def running_period(kind: str) -> tuple[str, float]:
    """Give a budget's running day or month: its first day, `2026-11-01`, and its end.

    The end is in seconds since the epoch.
    """
    period = _period(kind)
    return _first_day(period), _ends(period)


def _period(kind: str) -> str:
    """Name the running period: `2026-11-24` or `2026-11`."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return now.strftime("%Y-%m-%d" if kind == "day" else "%Y-%m")


def _first_day(period: str) -> str:
    return period if len(period) == len("2026-11-24") else f"{period}-01"


def _ends(period: str) -> float:
    """Give the end of a period in seconds since the epoch."""
    first = datetime.fromisoformat(_first_day(period)).replace(tzinfo=UTC)
    if period == _first_day(period):
        return first.timestamp() + _DAY
    months = first.year * 12 + first.month
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC).timestamp()


def _lifetime(period: str) -> int:
    """Give the seconds for which a period's counter is kept: to its end, and a day."""
    return max(1, math.ceil(_ends(period) - time.time())) + _DAY
