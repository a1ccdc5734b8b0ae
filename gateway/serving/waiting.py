"""Where calls wait while every worker that could serve them is full."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from gateway.errors import Saturated
from gateway.registry.snapshot import Priority
from gateway.serving.histogram import Seconds
from gateway.serving.queue import QueueFull, WaitingQueue
from gateway.serving.recent import Recent
from gateway.settings import QueueSettings

Place = TypeVar("Place")

_LONGEST_S = 60
_RATE_SPAN_S = 10.0


@dataclass(slots=True)
class Standing:
    """Whose call it is and how urgent; `waited` are its seconds in the queue so far."""

    key: int
    priority: Priority
    waited: float = 0.0


class _Waiter(NamedTuple, Generic[Place]):
    """`find` gives a place and takes it, or gives None; the future gets what was found."""

    find: Callable[[], Place | None]
    found: asyncio.Future[Place]


class WaitingRoom(Generic[Place]):
    """Has calls wait for a place; whoever may have made room calls `serve`."""

    def __init__(self, settings: QueueSettings, give_back: Callable[[Place], None]) -> None:
        """`give_back` gets the place of a call that left in the moment it was found."""
        self.seconds = {end: Seconds() for end in ("served", "late", "left")}
        self._settings = settings
        self._give_back = give_back
        self._queue: WaitingQueue[_Waiter[Place]] = WaitingQueue(settings.size)
        self._served = Recent(_RATE_SPAN_S)

    def __len__(self) -> int:
        return len(self._queue)

    def waiting(self) -> dict[Priority, int]:
        """Count those that wait, by priority."""
        return self._queue.waiting()

    async def wait(
        self, find: Callable[[], Place | None], lane: Hashable, standing: Standing
    ) -> Place:
        """Wait until `find` gives a place. Raises `Saturated`, and leaves when cancelled."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(find, loop.create_future())
        try:
            ticket = self._queue.join(
                waiter, priority=standing.priority, key=standing.key, lane=lane
            )
        except QueueFull:
            raise self._saturated("as many calls as may wait already", standing) from None
        began, end = loop.time(), "left"
        try:
            async with asyncio.timeout(self._settings.wait):
                await waiter.found
            end = "served"
        except TimeoutError:
            end = "late"
        finally:
            self._queue.leave(ticket)
            seconds = loop.time() - began
            standing.waited += seconds
            self.seconds[end].observe(seconds)
            if end != "served" and waiter.found.done() and not waiter.found.cancelled():
                self._give_back(waiter.found.result())
        if end == "late":
            reason = f"none had room within {self._settings.wait:g} s"
            raise self._saturated(reason, standing)
        place: Place = waiter.found.result()
        return place

    def serve(self) -> None:
        """Let calls go as long as there are places, in the order of the queue."""
        blocked: set[Hashable] = set()
        while (ticket := self._queue.first(blocked)) is not None:
            find, found = ticket.item
            if found.done():  # cancelled; its task has not run yet
                self._queue.leave(ticket)
            elif (place := find()) is None:
                blocked.add(ticket.lane)
            else:
                self._queue.take(ticket)
                self._served.add(found.get_loop().time())
                found.set_result(place)

    def _saturated(self, reason: str, standing: Standing) -> Saturated:
        """Say when to come back: once those that wait now will have gone, at the last rate."""
        rate = self._served.per_second(asyncio.get_running_loop().time())
        wait = len(self._queue) / rate if rate else self._settings.wait
        seconds = max(1, min(_LONGEST_S, math.ceil(wait)))
        error = Saturated(
            f"Every worker that serves this model is full, and {reason}: try again in {seconds} s.",
            retry_after=seconds,
        )
        error.headers = queue_headers(standing)
        return error


def queue_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """Give the response header that tells how long a call waited, where it did."""
    if not standing.waited:
        return []
    return [(b"x-queue-ms", str(round(standing.waited * 1000)).encode())]
