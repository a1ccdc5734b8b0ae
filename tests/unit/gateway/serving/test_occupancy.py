"""How busy a worker is, and when it is full: by its last reading, and our calls since."""

from __future__ import annotations

from gateway.serving.occupancy import Occupancy, waiting_now
from gateway.settings import QueueSettings
from gateway.workers.probe import Observed


def seen(at: float, *, boot: str = "1", **figures: float) -> Observed:
    return Observed("w", healthy=True, boot=boot, at=at, **figures)  # type: ignore[arg-type]


def occupancy(settings: QueueSettings | None = None) -> Occupancy:
    return Occupancy(settings or QueueSettings())


def test_an_idle_worker_takes_any_burst() -> None:
    workers = occupancy()
    workers.read(seen(1), 0)
    for count in range(500):
        workers.count("w", count)
        assert not workers.full


def test_its_own_queue_and_what_we_sent_since() -> None:
    workers = occupancy()
    workers.read(seen(1, running=8, waiting=2), 5)
    workers.count("w", 6)
    assert not workers.full
    workers.count("w", 7)
    assert workers.full == {"w"}
    workers.count("w", 6)  # one ended, so one that waited runs
    assert not workers.full


def test_a_new_reading_is_what_counts() -> None:
    workers = occupancy()
    workers.read(seen(1, running=8, waiting=4), 12)
    assert workers.full == {"w"}
    workers.read(seen(1, running=8, waiting=4), 0)  # told again: no new reading
    assert workers.full == {"w"}
    workers.read(seen(2, running=8), 12)
    assert not workers.full


def test_what_it_ran_while_calls_waited_is_what_it_can_run() -> None:
    workers = occupancy()
    workers.read(seen(1, running=8, waiting=4), 12)
    workers.read(seen(2, running=2), 2)
    workers.count("w", 11)  # 8 run, and 3 wait
    assert not workers.full
    workers.count("w", 12)
    assert workers.full == {"w"}
    workers.read(seen(3, running=12), 12)  # it can run more than thought
    workers.count("w", 15)
    assert not workers.full
    workers.count("w", 16)
    assert workers.full == {"w"}
    workers.read(seen(4, boot="2"), 0)
    workers.count("w", 200)
    assert not workers.full


def test_what_it_was_seen_to_run_since_then_it_can_run_again() -> None:
    """Two long prompts filled its cache once: that is no bound on short ones for ever."""
    workers = occupancy()
    workers.read(seen(1, running=2, waiting=4), 6)
    workers.read(seen(2, running=40), 40)
    workers.read(seen(3), 0)
    for count in range(1, 44):
        workers.count("w", count)
        assert not workers.full
    workers.count("w", 44)
    assert workers.full == {"w"}
    workers.read(seen(4, running=3, waiting=4), 7)  # long ones again
    workers.read(seen(5), 0)
    workers.count("w", 7)
    assert workers.full == {"w"}


def test_a_full_cache() -> None:
    workers = occupancy()
    workers.read(seen(1, kv_usage=0.95), 1)
    assert not workers.full
    workers.read(seen(2, kv_usage=0.96), 1)
    assert workers.full == {"w"}


def test_who_turned_a_call_away_is_full_until_the_next_reading() -> None:
    workers = occupancy()
    workers.refused("w")  # it was never read: nothing could end that
    assert not workers.full
    workers.read(seen(1), 1)
    workers.refused("w")
    workers.count("w", 0)
    assert workers.full == {"w"}
    workers.read(seen(1), 0)  # told again: no new reading
    assert workers.full == {"w"}
    workers.read(seen(2), 0)
    assert not workers.full


def test_a_bound_on_our_own_calls_needs_no_reading() -> None:
    workers = occupancy(QueueSettings(per_worker=2))
    workers.count("w", 1)
    assert not workers.full
    workers.count("w", 2)
    assert workers.full == {"w"}
    workers.keep(())
    assert not workers.full


def test_nothing_is_known_to_wait_before_anything_did() -> None:
    assert waiting_now(seen(1, running=9), 100, None) == 0
    assert waiting_now(seen(1, running=9), 3, 10) == 2


def test_our_own_calls_count_once() -> None:
    workers = occupancy()
    workers.count("w", 6)
    assert workers.outstanding == {"w": 6}
    workers.read(seen(1, running=8, waiting=2), 6)  # four are of another gateway
    assert workers.outstanding == {"w": 10}
    workers.count("w", 0)
    assert workers.outstanding == {"w": 4}
    workers.read(seen(2), 0)
    assert not workers.outstanding


def test_calls_that_came_or_ended_while_it_was_read_are_no_others() -> None:
    workers = occupancy()
    workers.read(seen(1), 16)  # it told before they came
    assert workers.outstanding == {"w": 16}
    workers.count("w", 0)
    workers.read(seen(2, running=16), 0)  # it told before they ended
    assert not workers.outstanding
    workers.read(seen(3, running=16), 0)  # they ended long ago, so these are of others
    assert workers.outstanding == {"w": 16}


def test_workers_that_are_gone_are_forgotten() -> None:
    workers = occupancy()
    for name in ("v", "w"):
        workers.count(name, 1)
    workers.keep({"v"})
    assert workers.outstanding == {"v": 1}
