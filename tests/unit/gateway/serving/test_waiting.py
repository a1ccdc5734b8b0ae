"""Waiting for a place: served in turn, late, left, or refused at the door."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import Saturated
from gateway.serving.waiting import Resort, Standing, WaitingRoom, queue_headers
from gateway.settings import QueueSettings


class Places:
    """So many places, taken by whoever finds one."""

    def __init__(self, **settings: float) -> None:
        self.free = 0
        self.room: WaitingRoom[str] = WaitingRoom(QueueSettings(**settings), self.back)  # type: ignore[arg-type]

    def find(self) -> str | None:
        if not self.free:
            return None
        self.free -= 1
        return "place"

    def back(self, place: str) -> None:
        self.free += 1

    def make(self, count: int) -> None:
        self.free += count
        self.room.serve()

    def enter(self, key: int = 1, resort: Resort | None = None) -> asyncio.Task[str]:
        standing = Standing(key, "normal")
        return asyncio.create_task(self.room.wait(self.find, "lane", standing, resort))


@pytest.fixture
async def places() -> Places:
    return Places(size=3, wait=30)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_waits_gets_the_next_places(places: Places) -> None:
    first, second = places.enter(), places.enter()
    await settled()
    places.make(1)
    assert await first == "place"
    assert not second.done()
    places.make(1)
    assert await second == "place"
    assert places.free == 0
    assert sum(places.room.seconds["served"].counts) == 2


async def test_who_leaves_is_gone_at_once_and_takes_no_place(places: Places) -> None:
    gone, stays = places.enter(), places.enter()
    await settled()
    gone.cancel()
    places.make(1)  # before the one that leaves has run
    assert await stays == "place"
    assert gone.cancelled()
    assert len(places.room) == 0
    assert sum(places.room.seconds["left"].counts) == 1


async def test_who_leaves_as_its_place_is_found_gives_it_back(places: Places) -> None:
    gone = places.enter()
    await settled()
    places.make(1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert places.free == 1


async def test_too_many_are_refused_with_a_time_to_come_back(places: Places) -> None:
    waiting = [places.enter() for _ in range(3)]
    await settled()
    with pytest.raises(Saturated, match="as many calls as may wait") as caught:
        await places.enter()
    assert caught.value.retry_after == 30  # nobody left yet, so nothing is known of the rate
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(places.room) == 0


async def test_the_time_to_come_back_follows_from_the_rate(places: Places) -> None:
    for _ in range(2):
        task = places.enter()
        await settled()
        places.make(1)
        await task
    waiting = [places.enter() for _ in range(3)]
    await settled()
    with pytest.raises(Saturated) as caught:
        await places.enter()
    assert caught.value.retry_after == 2  # three wait, and two a second leave
    places.make(3)
    await asyncio.gather(*waiting)


async def test_who_waits_too_long_is_told(places: Places) -> None:
    places = Places(size=3, wait=0.05)
    standing = Standing(1, "normal")
    with pytest.raises(Saturated, match="none had room within") as caught:
        await places.room.wait(places.find, "lane", standing)
    assert standing.waited >= 0.05
    assert caught.value.headers == queue_headers(standing)
    assert int(queue_headers(standing)[0][1]) >= 50
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert len(places.room) == 0


async def test_a_call_waits_so_long_in_all(places: Places) -> None:
    standing = Standing(1, "normal", waited=29.95)
    began = time.monotonic()
    with pytest.raises(Saturated, match=r"none had room within 3\d(\.\d)? s"):
        await places.room.wait(places.find, "lane", standing)
    with pytest.raises(Saturated):
        await places.room.wait(places.find, "lane", standing, Resort(0.1, lambda: False))
    assert time.monotonic() - began >= 0.15  # a fallback gets its time, however long it was before
    assert sum(places.room.seconds["late"].counts) == 2


async def test_who_could_be_answered_elsewhere_leaves(places: Places) -> None:
    answers, looked_twice = [False, False], asyncio.Event()

    def look() -> bool:
        if answers:
            return answers.pop()
        looked_twice.set()
        return ready

    ready = False
    began = time.monotonic()
    waits, other = places.enter(resort=Resort(0.05, look)), places.enter()
    await looked_twice.wait()
    assert not waits.done()
    ready = True
    with pytest.raises(Saturated):
        await waits
    assert 0.15 < time.monotonic() - began < 10
    assert len(places.room) == 1
    assert sum(places.room.seconds["fallback"].counts) == 1
    places.make(1)
    assert await other == "place"


async def test_a_place_in_time_is_better_than_another(places: Places) -> None:
    waits = places.enter(resort=Resort(0.05, lambda: True))
    await settled()
    places.make(1)
    assert await waits == "place"
    await asyncio.sleep(0.1)  # the look that was due finds nobody
    assert places.free == 0
    assert sum(places.room.seconds["fallback"].counts) == 0
