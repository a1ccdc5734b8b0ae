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

_ENDS = ("served", "late", "left", "fallback", "displaced")
_LONGEST_S = 60
_RATE_SPAN_S = 10.0
_LOOK_AGAIN_S = 0.1
"""Seconds at least from one look for others that could answer to the next."""


@dataclass(slots=True)
class Standing:
    """Whose call it is and how urgent; `waited` are its seconds in the queue so far."""

    key: int
    priority: Priority
    waited: float = 0.0


class Resort(NamedTuple):
    """Who else could answer: `ready` is asked after so many seconds, and again and again."""

    after: float
    ready: Callable[[], bool]


class _Waiter(NamedTuple, Generic[Place]):
    """`find` gives a place and takes it, or gives None; the future gets what was found.

    It gets None when somebody else could answer.
    """

    find: Callable[[], Place | None]
    found: asyncio.Future[Place | None]


class WaitingRoom(Generic[Place]):
    """Has calls wait for a place; whoever may have made room calls `serve`."""

    def __init__(self, settings: QueueSettings, give_back: Callable[[Place], None]) -> None:
        """`give_back` gets the place of a call that left in the moment it was found."""
        self.seconds = {end: Seconds() for end in _ENDS}
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
        self,
        find: Callable[[], Place | None],
        lane: Hashable,
        standing: Standing,
        resort: Resort | None = None,
    ) -> Place:
        """Wait until `find` gives a place. Raises `Saturated`, and leaves when cancelled.

        A call waits for `queue.wait` in all, however many versions it waits for; with a resort as
        long as that one's time at least, and no longer than until that could answer.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(find, loop.create_future())
        try:
            self._make_way(standing)
            ticket = self._queue.join(
                waiter, priority=standing.priority, key=standing.key, lane=lane
            )
        except QueueFull:
            raise self._saturated("as many calls as may wait already", standing) from None
        began, end = loop.time(), "left"
        longest = self._settings.wait - standing.waited
        if resort is not None:
            longest = max(longest, resort.after)
            loop.call_later(resort.after, self._look_elsewhere, waiter.found, resort)
        place: Place | None = None
        try:
            async with asyncio.timeout(longest):
                place = await waiter.found
            end = "fallback" if place is None else "served"
        except TimeoutError:
            end = "late"
        except QueueFull:
            end = "displaced"
        finally:
            self._queue.leave(ticket)
            seconds = loop.time() - began
            standing.waited += seconds
            self.seconds[end].observe(seconds)
            if place is None and waiter.found.done() and not waiter.found.cancelled():
                late = None if waiter.found.exception() else waiter.found.result()
                if late is not None:
                    self._give_back(late)
        if end == "displaced":
            raise self._saturated("others come first where no more can wait", standing)
        if place is None:
            reason = f"none had room within {standing.waited:.3g} s"
            raise self._saturated(reason, standing)
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

    def _make_way(self, standing: Standing) -> None:
        """Where the queue is full, send away a call whose key or priority has too many there."""
        if len(self._queue) < self._settings.size:
            return
        last = self._queue.last(standing.priority, standing.key)
        if last is not None:
            self._queue.leave(last)
            if not last.item.found.done():
                last.item.found.set_exception(QueueFull())

    def _look_elsewhere(self, found: asyncio.Future[Place | None], resort: Resort) -> None:
        """Let a call go that still waits where somebody else could answer it, or look again."""
        if found.done():
            return
        if resort.ready():
            found.set_result(None)
        else:
            pause = max(resort.after, _LOOK_AGAIN_S)
            found.get_loop().call_later(pause, self._look_elsewhere, found, resort)

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
