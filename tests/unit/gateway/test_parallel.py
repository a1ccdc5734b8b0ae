"""Calls at once of a key: bounded by account, and given back however a call ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import ParallelExceeded, RequestsExceeded
from gateway.parallel import Parallel
from gateway.registry.snapshot import Key, KeyLimits
from gateway.serving.state import Serving
from tests.unit.gateway.whole import Whole


def key(account: int = 1, purpose: str = "serve", **limits: int) -> Key:
    mine = KeyLimits(**limits)  # type: ignore[arg-type]
    return Key(account, "default", "shop", "app", None, None, purpose, mine, account)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    whole = Whole(tmp_path)
    yield whole.app.state.serving
    whole.close()


def test_a_call_past_the_bound_is_refused_and_not_counted() -> None:
    parallel, mine = Parallel(None), key(max_parallel=2)
    parallel.enter(mine)
    parallel.enter(mine)
    with pytest.raises(ParallelExceeded, match="2 calls at once") as refused:
        parallel.enter(mine)
    error = refused.value
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.retry_after == 1
    parallel.leave(mine)
    parallel.enter(mine)
    assert parallel.running(1) == 2


def test_rotated_keys_count_together_and_strangers_apart() -> None:
    parallel, old = Parallel(None), key(max_parallel=1)
    parallel.enter(old)
    with pytest.raises(ParallelExceeded):
        parallel.enter(replace(old, id=2))
    parallel.enter(key(3, max_parallel=1))


def test_a_default_holds_for_keys_without_a_bound_of_their_own() -> None:
    parallel = Parallel(1)
    for wide in (key(2, max_parallel=2), key(3, purpose="evaluation")):
        parallel.enter(wide)
        parallel.enter(wide)
    parallel.enter(key(1))
    with pytest.raises(ParallelExceeded, match="1 calls at once"):
        parallel.enter(key(1))


def test_calls_that_began_before_there_was_a_bound_count_too() -> None:
    parallel = Parallel(None)
    parallel.enter(key())
    with pytest.raises(ParallelExceeded):
        parallel.enter(key(max_parallel=1))


def test_accounts_that_call_no_more_take_no_room() -> None:
    parallel = Parallel(None)
    for account in range(100):
        parallel.enter(key(account))
        parallel.leave(key(account))
    assert parallel._running == {}


async def test_a_call_gives_its_place_back_however_it_ends(serving: Serving) -> None:
    mine = key(max_parallel=1, tokens_per_minute=100)

    async def call(error: BaseException | None = None) -> None:
        async with serving.granted(mine, 5, [], lambda: 5):
            assert serving.parallel.running(1) == 1
            if error is not None:
                raise error
            await asyncio.sleep(60)

    for error in (ValueError(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await call(error)
        assert serving.parallel.running(1) == 0
    leaving = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert serving.parallel.running(1) == 1
    leaving.cancel()
    await asyncio.wait([leaving])
    assert serving.parallel.running(1) == 0


async def test_a_call_that_another_limit_refuses_gives_its_place_back(serving: Serving) -> None:
    mine = key(max_parallel=2, requests_per_minute=1)
    async with serving.granted(mine, 5, [], lambda: 5):
        with pytest.raises(RequestsExceeded):
            async with serving.granted(mine, 5, [], lambda: 5):
                pass
        assert serving.parallel.running(1) == 1


async def test_a_call_that_is_one_too_many_costs_no_request_of_the_minute(serving: Serving) -> None:
    mine, headers = key(max_parallel=1, requests_per_minute=9), list[tuple[bytes, bytes]]()
    async with serving.granted(mine, 5, [], lambda: 5):
        with pytest.raises(ParallelExceeded):
            async with serving.granted(mine, 5, [], lambda: 5):
                pass
    async with serving.granted(mine, 5, headers, lambda: 5):
        assert dict(headers)[b"x-ratelimit-remaining-requests"] == b"7"
