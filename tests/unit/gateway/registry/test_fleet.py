"""Workers, placements, gateways, leases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import inf

import pytest

from gateway.errors import Conflict
from gateway.registry.errors import VersionNotFound
from gateway.registry.service import Registry
from gateway.registry.snapshot import Effect, Placement, WorkerSpec

from .conftest import Clock, Shelf

W1 = WorkerSpec("w1", "http://127.0.0.1:8001")


def test_workers(registry: Registry, clock: Clock) -> None:
    registry.upsert_worker(W1)
    before = registry.revision()
    registry.upsert_worker(W1)
    assert registry.revision() == before
    assert registry.snapshot().workers == {"w1": W1}
    registry.record_worker("w1", boot="b1", healthy=True, metrics={"running": 2})
    (worker,) = registry.workers()
    assert (worker.boot, worker.healthy, worker.seen_at) == ("b1", True, clock.now)
    assert worker.metrics == {"running": 2}
    assert registry.revision() == before + 1
    seen = clock.now
    clock.now += 5
    registry.record_worker("w1", boot="b1", healthy=True, metrics={"running": 3})
    assert registry.revision() == before + 1, "metrics are no change to route by"
    registry.record_worker("w1", boot="b1", healthy=False, detail="no answer")
    (worker,) = registry.workers()
    assert (worker.healthy, worker.detail, worker.seen_at) == (False, "no answer", seen + 5)
    assert registry.revision() == before + 2
    registry.upsert_worker(WorkerSpec("w1", "http://127.0.0.1:9001"))
    assert registry.workers()[0].boot == "b1"
    registry.record_worker("unknown", boot="", healthy=True)
    assert registry.remove_worker("w1")
    assert not registry.remove_worker("w1")
    assert registry.workers() == ()


def test_placements(registry: Registry, shelf: Shelf) -> None:
    one, two = shelf.add(), shelf.add()
    first = Placement("w1", one.id, "b1", Effect.EFFECTIVE, "close")
    registry.record_placement(first)
    before = registry.revision()
    registry.record_placement(first)
    assert registry.revision() == before
    registry.record_placement(Placement("w1", two.id, "b2", None))
    registry.record_placement(Placement("w2", one.id, "b1", Effect.NO_EFFECT))
    placements = registry.snapshot().placements
    assert [p.worker for p in placements[one.id]] == ["w1", "w2"]
    assert placements[two.id][0].effect is None
    assert registry.drop_placements("w1", boot="b2")
    assert not registry.drop_placements("w1", boot="b2")
    assert [p.worker for p in registry.snapshot().placements[one.id]] == ["w2"]
    assert registry.drop_placements("w1", [two.id])
    assert not registry.drop_placements("w1")
    with pytest.raises(VersionNotFound):
        registry.record_placement(Placement("w1", 999, "b1", None))


def test_a_worker_takes_its_placements_along(registry: Registry, shelf: Shelf) -> None:
    version = shelf.add()
    registry.upsert_worker(W1)
    registry.record_worker("w1", boot="b1", healthy=True)
    registry.record_placement(Placement("w1", version.id, "b1", Effect.EFFECTIVE))
    (detail,) = registry.describe("default", "support").versions
    assert [seen.current for seen in detail.seen] == [True]
    registry.record_worker("w1", boot="b2", healthy=True)
    (detail,) = registry.describe("default", "support").versions
    assert [seen.current for seen in detail.seen] == [False]
    registry.remove_worker("w1")
    assert registry.snapshot().placements == {}


def test_heartbeats(registry: Registry, clock: Clock) -> None:
    before = registry.revision()
    registry.heartbeat("g1", 3, ["b", "a", "a"], host="h")
    clock.now += 5
    registry.heartbeat("g2", 4)
    assert [beat.id for beat in registry.live_gateways()] == ["g1", "g2"]
    assert registry.live_gateways()[0].busy == {"a", "b"}
    clock.now += 4
    assert [beat.id for beat in registry.live_gateways()] == ["g2"]
    assert registry.revision() == before
    registry.remove_gateway("g2")
    assert registry.live_gateways() == ()


def test_leases(registry: Registry, clock: Clock) -> None:
    assert registry.acquire_lease("controller", "a", 10)
    assert registry.acquire_lease("controller", "a", 10)
    assert not registry.acquire_lease("controller", "b", 10)
    assert registry.acquire_lease("other", "b", 10)
    clock.now += 9.9
    assert not registry.acquire_lease("controller", "b", 10)
    clock.now += 0.1
    assert registry.acquire_lease("controller", "b", 10)
    assert not registry.acquire_lease("controller", "a", 10)
    assert not registry.release_lease("controller", "a")
    assert registry.release_lease("controller", "b")
    assert registry.acquire_lease("controller", "a", 10)


def test_what_was_written_before_the_clock_was_set_back_ends_all_the_same(
    registry: Registry, clock: Clock
) -> None:
    registry.heartbeat("dead", 1)
    assert registry.acquire_lease("controller", "dead", 10)
    clock.now -= 5
    assert not registry.acquire_lease("controller", "b", 10)
    assert [beat.id for beat in registry.live_gateways()] == ["dead"]
    clock.now -= 3600
    assert registry.acquire_lease("controller", "b", 10)
    assert registry.live_gateways() == ()
    assert len(registry.live_gateways(inf)) == 1


def test_one_holder_among_many(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: registry.acquire_lease("x", str(n), 10), range(16)))
    assert sum(got) == 1


def test_uses_keep_the_latest_time_and_are_no_change(
    registry: Registry, shelf: Shelf, clock: Clock
) -> None:
    one, two = shelf.add(), shelf.add()
    assert registry.demand().used_at == {one.id: clock.now, two.id: clock.now}, "registered now"
    before = registry.revision()
    clock.now += 100
    registry.heartbeat("g1", 1, used={one.id: 5.0})
    registry.heartbeat("g2", 1, used={two.id: 1.0, one.id: 9.0})
    registry.heartbeat("g1", 1)
    assert registry.demand().used_at == {one.id: clock.now - 5, two.id: clock.now - 1}
    assert registry.pulse() == (before, clock.now - 1)
    assert registry.describe("default", "support").versions[1].used_at == clock.now - 1


def test_demand_tells_when_placements_were_proven(
    registry: Registry, shelf: Shelf, clock: Clock
) -> None:
    version = shelf.add()
    placement = Placement("w1", version.id, "b1", Effect.EFFECTIVE, "close")
    registry.record_placement(placement)
    before = registry.revision()
    clock.now += 60
    registry.record_placement(placement)
    found = registry.demand()
    assert (found.now, found.checked_at) == (clock.now, {("w1", version.id): clock.now})
    assert registry.revision() == before, "the same again is no change to route by"


def test_a_held_snapshot_is_renewed_by_what_changed(registry: Registry, shelf: Shelf) -> None:
    version = shelf.add()
    held = registry.snapshot()
    registry.record_placement(Placement("w1", version.id, "b1", Effect.EFFECTIVE))
    after = registry.snapshot(held)
    assert after == registry.snapshot()
    assert after.versions is held.versions, "nothing but placements was read"
    registry.promote("default", "support", 1)
    registry.drop_placements("w1")
    assert registry.snapshot(after) == registry.snapshot()
    assert registry.snapshot(after).aliases["default", "support"].stable is not None


def test_pins(registry: Registry, shelf: Shelf) -> None:
    version = shelf.add()
    before = registry.revision()
    assert registry.pin("default", "support", 1, 2, "ann").pinned == 2
    assert registry.snapshot().versions["default", "support", 1].pinned == 2
    assert registry.revision() == before + 1
    registry.pin("default", "support", 1, 2, "ann")
    assert registry.revision() == before + 1, "the same again changes nothing"
    assert registry.pin("default", "support", 1, None).pinned == 0
    (told,) = registry.describe("default", "support").versions
    assert [event.reason for event in told.events[-2:]] == [
        "pinned to 2 workers",
        "no longer pinned",
    ]
    registry.pin("default", "support", 1, 1)
    registry.retire("default", "support", 1)
    assert registry.version("default", "support", 1).pinned == 0
    with pytest.raises(Conflict, match="retired"):
        registry.pin("default", "support", 1, 1)
    with pytest.raises(Conflict, match="base model"):
        registry.pin("default", "base", 0, 1)
    with pytest.raises(VersionNotFound):
        registry.pin("default", "support", version.number + 1, 1)
