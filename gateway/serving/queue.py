"""Calls that wait for room on a worker: by priority, fair among keys. No clock, no I/O.

Priorities share what leaves by self-clocked fair queueing (Golestani 1994): while all of them
wait, 16 of 21 calls that leave are high, 4 normal and 1 low; a priority that is alone has
everything. So none starves, and a higher one that comes later still passes those before it. Within
a priority the keys take turns, and the calls of one key go in the order in which they came.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Hashable
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, TypeVar

from gateway.registry.snapshot import PRIORITIES, Priority

Item = TypeVar("Item")

WEIGHTS: dict[Priority, int] = {"high": 16, "normal": 4, "low": 1}


def lowered(priority: Priority) -> Priority:
    """Give the next lower priority; the lowest stays."""
    return PRIORITIES[min(PRIORITIES.index(priority) + 1, len(PRIORITIES) - 1)]


class QueueFull(Exception):
    """As many calls wait as may."""


@dataclass(slots=True, eq=False)
class Ticket(Generic[Item]):
    """A place in the queue. Calls of one `lane` can all be served, or none of them."""

    item: Item
    priority: Priority
    key: int
    lane: Hashable
    number: int


class WaitingQueue(Generic[Item]):
    """At most `size` waiting calls, and whose turn it is."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._length = 0
        self._count = 0
        self._reached = 0.0
        self._classes = {priority: _Class[Item](WEIGHTS[priority]) for priority in PRIORITIES}

    def __len__(self) -> int:
        return self._length

    def waiting(self) -> dict[Priority, int]:
        """Count those that wait, by priority."""
        return {name: one.lanes.total() for name, one in self._classes.items()}

    def join(self, item: Item, *, priority: Priority, key: int, lane: Hashable) -> Ticket[Item]:
        """Stand at the end. Raises `QueueFull`."""
        if self._length >= self._size:
            raise QueueFull
        self._count += 1
        self._length += 1
        ticket = Ticket(item, priority, key, lane, self._count)
        mine = self._classes[priority]
        if not mine.keys:
            # Time in which nobody waited earns nothing.
            mine.reached = max(mine.reached, self._reached)
        mine.add(ticket)
        return ticket

    def last(self, priority: Priority, key: int) -> Ticket[Item] | None:
        """Give who is to go where a call of this priority and key comes and the queue is full.

        Places are shared as turns are: it is a call of the priority that has most by its weight, or
        else of a key of the same priority that has more, and the newest one there.
        """
        mine = self._classes[priority]
        most = max(self._classes.values(), key=_Class.held)
        if most.held() <= mine.held(1):
            most = mine
        key_of_most, count = most.greatest()
        if most is mine and count <= mine.count(key) + 1:
            return None
        newest = [next(reversed(lane)) for lane in most.keys[key_of_most].values()]
        return max(newest, key=lambda ticket: ticket.number)

    def first(self, blocked: Container[Hashable] = ()) -> Ticket[Item] | None:
        """Give whose turn it is, passing over lanes that cannot be served; it stays."""
        for one in sorted(self._classes.values(), key=lambda one: one.reached + one.step):
            ticket = one.first(blocked)
            if ticket is not None:
                return ticket
        return None

    def take(self, ticket: Ticket[Item]) -> None:
        """Let a call go that is served now: it was its key's and its priority's turn."""
        mine = self._classes[ticket.priority]
        self.leave(ticket)
        mine.reached += mine.step
        self._reached = mine.reached
        for one in self._classes.values():
            # Nor does time in which none that waited could be served.
            one.reached = max(one.reached, self._reached - one.step)
        if ticket.key in mine.keys:
            mine.keys.move_to_end(ticket.key)

    def leave(self, ticket: Ticket[Item]) -> None:
        """Let a call go that does not want to wait any more; nothing where it has gone before."""
        self._length -= self._classes[ticket.priority].remove(ticket)


class _Class(Generic[Item]):
    """The calls of one priority by key and lane; the first key is the next to have its turn."""

    def __init__(self, weight: int) -> None:
        self.step = 1 / weight
        self.reached = 0.0
        self.keys: OrderedDict[int, dict[Hashable, dict[Ticket[Item], None]]] = OrderedDict()
        self.lanes: Counter[Hashable] = Counter()

    def add(self, ticket: Ticket[Item]) -> None:
        lanes = self.keys.setdefault(ticket.key, {})
        lanes.setdefault(ticket.lane, {})[ticket] = None
        self.lanes[ticket.lane] += 1

    def held(self, more: int = 0) -> float:
        """Give how many places it would have with so many more, by its weight."""
        return (self.lanes.total() + more) * self.step

    def count(self, key: int) -> int:
        return sum(map(len, self.keys.get(key, {}).values()))

    def greatest(self) -> tuple[int, int]:
        """Give the key with the most calls, and how many; none where nobody waits."""
        return max(((key, self.count(key)) for key in self.keys), key=itemgetter(1), default=(0, 0))

    def first(self, blocked: Container[Hashable]) -> Ticket[Item] | None:
        if all(lane in blocked for lane in self.lanes):
            return None  # without a look at each of what may be a thousand keys
        for lanes in self.keys.values():
            heads = [next(iter(lane)) for name, lane in lanes.items() if name not in blocked]
            if heads:
                return min(heads, key=lambda ticket: ticket.number)
        return None

    def remove(self, ticket: Ticket[Item]) -> bool:
        """Take a ticket out; whether it was there."""
        lanes = self.keys.get(ticket.key, {})
        lane = lanes.get(ticket.lane, {})
        if ticket not in lane:
            return False
        del lane[ticket]
        self.lanes[ticket.lane] -= 1
        if not self.lanes[ticket.lane]:
            del self.lanes[ticket.lane]
        if not lane:
            del lanes[ticket.lane]
        if not lanes:
            del self.keys[ticket.key]
        return True
