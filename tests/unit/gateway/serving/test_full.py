"""When a worker is full: by its last reading, and our calls since."""

from __future__ import annotations

from gateway.serving.full import FullWorkers, waiting_now
from gateway.settings import QueueSettings
from gateway.workers.probe import Observed


def seen(at: float, *, boot: str = "1", **figures: float) -> Observed:
    return Observed("w", healthy=True, boot=boot, at=at, **figures)  # type: ignore[arg-type]


def full(settings: QueueSettings | None = None) -> FullWorkers:
    return FullWorkers(settings or QueueSettings())


def test_an_idle_worker_takes_any_burst() -> None:
    workers = full()
    workers.read(seen(1), 0)
    for count in range(500):
        workers.count("w", count)
        assert not workers.names


def test_its_own_queue_and_what_we_sent_since() -> None:
    workers = full()
    workers.read(seen(1, running=8, waiting=2), 5)
    workers.count("w", 6)
    assert not workers.names
    workers.count("w", 7)
    assert workers.names == {"w"}
    workers.count("w", 6)  # one ended, so one that waited runs
    assert not workers.names


def test_a_new_reading_is_what_counts() -> None:
    workers = full()
    workers.read(seen(1, running=8, waiting=4), 12)
    assert workers.names == {"w"}
    workers.read(seen(1, running=8, waiting=4), 0)  # told again: no new reading
    assert workers.names == {"w"}
    workers.read(seen(2, running=8), 12)
    assert not workers.names


def test_what_it_ran_while_calls_waited_is_what_it_can_run() -> None:
    workers = full()
    workers.read(seen(1, running=8, waiting=4), 12)
    workers.read(seen(2, running=2), 2)
    workers.count("w", 11)  # 8 run, and 3 wait
    assert not workers.names
    workers.count("w", 12)
    assert workers.names == {"w"}
    workers.read(seen(3, running=12), 12)  # it can run more than thought
    workers.count("w", 15)
    assert not workers.names
    workers.count("w", 16)
    assert workers.names == {"w"}
    workers.read(seen(4, boot="2"), 0)
    workers.count("w", 200)
    assert not workers.names


def test_a_full_cache() -> None:
    workers = full()
    workers.read(seen(1, kv_usage=0.95), 1)
    assert not workers.names
    workers.read(seen(2, kv_usage=0.96), 1)
    assert workers.names == {"w"}


def test_a_bound_on_our_own_calls_needs_no_reading() -> None:
    workers = full(QueueSettings(per_worker=2))
    workers.count("w", 1)
    assert not workers.names
    workers.count("w", 2)
    assert workers.names == {"w"}
    workers.keep(())
    assert not workers.names


def test_nothing_is_known_to_wait_before_anything_did() -> None:
    assert waiting_now(seen(1, running=9), 100, None) == 0
    assert waiting_now(seen(1, running=9), 3, 10) == 2
