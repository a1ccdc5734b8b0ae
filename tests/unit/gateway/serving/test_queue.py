"""The queue: bounded, nobody lost or served twice, fair among keys, no priority starves."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.registry.snapshot import PRIORITIES, Priority
from gateway.serving.queue import WEIGHTS, QueueFull, Ticket, WaitingQueue, lowered


def filled(*calls: tuple[str, Priority, int]) -> WaitingQueue[str]:
    queue: WaitingQueue[str] = WaitingQueue(1000)
    for item, priority, key in calls:
        queue.join(item, priority=priority, key=key, lane="any")
    return queue


def drained(queue: WaitingQueue[str], count: int | None = None) -> list[str]:
    items = []
    while (count is None or len(items) < count) and (ticket := queue.first()) is not None:
        queue.take(ticket)
        items.append(ticket.item)
    return items


def test_calls_of_a_key_go_as_they_came() -> None:
    assert drained(filled(*((str(n), "normal", 1) for n in range(5)))) == list("01234")


def test_keys_take_turns_however_many_calls_one_has() -> None:
    queue = filled(*((f"a{n}", "normal", 1) for n in range(50)), ("b0", "normal", 2),
                   ("c0", "normal", 3), ("b1", "normal", 2))  # fmt: skip
    assert drained(queue, 6) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_a_higher_priority_that_comes_later_goes_first() -> None:
    queue = filled(*((f"low{n}", "low", 1) for n in range(20)))
    assert drained(queue, 5) == [f"low{n}" for n in range(5)]
    queue.join("high", priority="high", key=2, lane="any")
    assert "high" in drained(queue, 2)


def test_priorities_share_by_their_weights_and_none_starves() -> None:
    queue = filled(*((name, name, 1) for name in PRIORITIES for _ in range(300)))
    order = drained(queue, 210)
    assert Counter(order) == {name: 10 * weight for name, weight in WEIGHTS.items()}
    at = [place for place, name in enumerate(order) if name == "low"]
    assert max(later - earlier for earlier, later in pairwise(at)) <= sum(WEIGHTS.values())


def test_waiting_for_nothing_earns_no_credit() -> None:
    queue = filled(*((f"high{n}", "high", 1) for n in range(300)))
    drained(queue, 200)
    for n in range(50):
        queue.join(f"low{n}", priority="low", key=2, lane="any")
    assert sum(item.startswith("low") for item in drained(queue, 34)) <= 3


def test_waiting_for_a_full_lane_earns_no_credit() -> None:
    queue: WaitingQueue[str] = WaitingQueue(1000)
    for n in range(60):
        queue.join(f"low{n}", priority="low", key=1, lane="full")
    for n in range(300):
        queue.join(f"high{n}", priority="high", key=2, lane="free")
        ticket = queue.first({"full"})
        assert ticket is not None
        queue.take(ticket)
    for n in range(60):
        queue.join(f"high{n}", priority="high", key=2, lane="free")
    assert sum(item.startswith("low") for item in drained(queue, 34)) <= 3


def test_a_lane_that_cannot_be_served_holds_up_no_other() -> None:
    queue: WaitingQueue[str] = WaitingQueue(10)
    queue.join("a", priority="high", key=1, lane="full")
    queue.join("b", priority="low", key=1, lane="free")
    ticket = queue.first({"full"})
    assert ticket is not None
    assert ticket.item == "b"
    assert queue.first({"full", "free"}) is None
    assert len(queue) == 2


def test_no_more_than_may() -> None:
    queue: WaitingQueue[str] = WaitingQueue(1)
    ticket = queue.join("a", priority="low", key=1, lane="any")
    with pytest.raises(QueueFull):
        queue.join("b", priority="high", key=2, lane="any")
    queue.leave(ticket)
    queue.leave(ticket)
    assert len(queue) == 0
    queue.join("b", priority="high", key=2, lane="any")
    assert queue.waiting() == {"high": 1, "normal": 0, "low": 0}


def test_a_full_queue_has_places_for_all_by_their_weights() -> None:
    queue: WaitingQueue[int] = WaitingQueue(210)
    for n in range(3000):
        name, key = PRIORITIES[n // 1000], n % 2
        if len(queue) == 210:
            ticket = queue.last(name, key)
            if ticket is None:
                continue
            queue.leave(ticket)
        queue.join(n, priority=name, key=key, lane=n % 3)
    assert queue.waiting() == {name: 10 * weight for name, weight in WEIGHTS.items()}


def test_a_full_queue_has_places_for_all_keys() -> None:
    queue = filled(*((f"a{n}", "normal", 1) for n in range(10)))
    for number, leaves in enumerate(("a9", "a8", "a7", "a6", "a5"), 1):
        ticket = queue.last("normal", 2)
        assert ticket is not None
        assert ticket.item == leaves
        queue.leave(ticket)
        queue.join(f"b{number}", priority="normal", key=2, lane="any")
    assert queue.last("normal", 2) is None
    assert queue.last("normal", 1) is None


def test_flexible_calls_stand_one_lower() -> None:
    assert [lowered(priority) for priority in PRIORITIES] == ["normal", "low", "low"]


class Anyhow(RuleBasedStateMachine):
    """Calls join, leave and are served in any order."""

    tickets: Bundle[Ticket[int]] = Bundle("tickets")
    SIZE = 12

    def __init__(self) -> None:
        super().__init__()
        self.queue: WaitingQueue[int] = WaitingQueue(self.SIZE)
        self.inside: dict[int, Ticket[int]] = {}
        self.gone: set[int] = set()
        self.count = 0

    @rule(
        target=tickets,
        priority=st.sampled_from(PRIORITIES),
        key=st.integers(1, 3),
        lane=st.sampled_from("xyz"),
    )
    def join(self, priority: Priority, key: int, lane: str) -> object:
        self.count += 1
        if len(self.inside) == self.SIZE:
            with pytest.raises(QueueFull):
                self.queue.join(self.count, priority=priority, key=key, lane=lane)
            return Ticket(self.count, priority, key, lane, 0)  # one that never was inside
        ticket = self.queue.join(self.count, priority=priority, key=key, lane=lane)
        self.inside[self.count] = ticket
        return ticket

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket[int]) -> None:
        self.queue.leave(ticket)
        self.inside.pop(ticket.item, None)

    @rule(blocked=st.sets(st.sampled_from("xyz")))
    def serve(self, blocked: set[str]) -> None:
        ticket = self.queue.first(blocked)
        waiting = [one for one in self.inside.values() if one.lane not in blocked]
        assert (ticket is None) == (not waiting)
        if ticket is None:
            return
        assert ticket in waiting
        assert ticket.item not in self.gone
        same = [t for t in waiting if (t.priority, t.key) == (ticket.priority, ticket.key)]
        assert ticket.number == min(t.number for t in same)
        self.queue.take(ticket)
        self.gone.add(ticket.item)
        del self.inside[ticket.item]

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.inside) == sum(self.queue.waiting().values())


TestAnyhow = Anyhow.TestCase
