"""The choice of a worker, as a function."""

from __future__ import annotations

import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.choose import choose, served_name
from gateway.registry.snapshot import Effect, Placement
from gateway.workers.probe import Observed
from tests.unit.gateway.workers.fake import base_version, version

VERSION = version()
NAMES = [f"w{i}" for i in range(6)]


def seen(worker: str, **changes: object) -> Observed:
    fine = Observed(
        worker,
        healthy=True,
        boot="1.00",
        names=frozenset({"base@0", VERSION.worker_name}),
        bases=frozenset({"base@0"}),
    )
    return replace(fine, **changes)  # type: ignore[arg-type]


def placed(worker: str, effect: Effect | None = Effect.EFFECTIVE, boot: str = "1.00") -> Placement:
    return Placement(worker, VERSION.id, boot, effect)


observations = st.builds(
    seen,
    st.sampled_from(NAMES),
    healthy=st.booleans(),
    boot=st.sampled_from(["1.00", "2.00", "~a-1", ""]),
    names=st.sampled_from([frozenset({"base@0"}), frozenset({"base@0", VERSION.worker_name})]),
)
placements = st.builds(
    placed,
    st.sampled_from(NAMES),
    st.sampled_from([None, *Effect]),
    st.sampled_from(["1.00", "2.00", "~b-1", ""]),
)
busy = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10))
fleets = st.lists(observations, max_size=6).map(lambda all_: {o.worker: o for o in all_})


@given(fleets, st.lists(placements, max_size=8), busy, st.text(max_size=5))
def test_only_proven_workers_are_chosen(
    fleet: dict[str, Observed], where: list[Placement], outstanding: dict[str, int], key: str
) -> None:
    def able(observed: Observed) -> bool:
        return (
            observed.healthy
            and observed.serves(VERSION)
            and any(
                p.worker == observed.worker and p.routable and observed.same_boot(p) for p in where
            )
        )

    chosen = choose(VERSION, where, fleet, outstanding, key)
    ables = {name: o for name, o in fleet.items() if able(o)}
    assert (chosen is None) == (not ables)
    if chosen is not None:
        assert chosen in ables
        assert outstanding.get(chosen, 0) == min(outstanding.get(name, 0) for name in ables)


@given(fleets, st.text(max_size=5))
def test_the_base_is_served_by_every_healthy_worker(fleet: dict[str, Observed], key: str) -> None:
    chosen = choose(base_version(), (), fleet, {}, key)
    assert (chosen is None) == (not any(o.healthy for o in fleet.values()))


@given(st.text(max_size=20), st.sets(st.sampled_from(NAMES), min_size=2))
def test_a_key_keeps_its_worker_when_others_leave(key: str, names: set[str]) -> None:
    fleet = {name: seen(name) for name in names}
    where = [placed(name) for name in names]
    chosen = choose(VERSION, where, fleet, {}, key)
    for gone in names - {chosen}:
        rest = {name: o for name, o in fleet.items() if name != gone}
        assert choose(VERSION, where, rest, {}, key) == chosen


def test_keys_spread_over_equal_workers() -> None:
    fleet = {name: seen(name) for name in NAMES}
    where = [placed(name) for name in NAMES]
    counts = dict.fromkeys(NAMES, 0)
    for i in range(1200):
        counts[choose(VERSION, where, fleet, {}, f"key-{i}") or ""] += 1
    assert min(counts.values()) > 140


def test_the_fewest_outstanding_calls_win() -> None:
    fleet = {"w0": seen("w0"), "w1": seen("w1")}
    where = [placed("w0"), placed("w1")]
    assert choose(VERSION, where, fleet, {"w1": 2}) == "w0"
    assert choose(VERSION, where, fleet, {"w0": 3, "w1": 2}) == "w1"


def test_slack_lets_a_session_stay_with_its_worker() -> None:
    fleet = {name: seen(name) for name in NAMES}
    where = [placed(name) for name in NAMES]
    home = choose(VERSION, where, fleet, {}, "session")
    assert home is not None
    busy = {home: 2}
    assert choose(VERSION, where, fleet, busy, "session") != home
    assert choose(VERSION, where, fleet, busy, "session", slack=2) == home
    assert choose(VERSION, where, fleet, {home: 3}, "session", slack=2) != home


def test_where_all_are_busy_near_is_a_share_of_the_least() -> None:
    fleet = {name: seen(name) for name in NAMES}
    where = [placed(name) for name in NAMES]
    home = choose(VERSION, where, fleet, {}, "session")
    for least, most in ((0, 2), (8, 10), (40, 50)):
        busy = dict.fromkeys(NAMES, least)
        busy[str(home)] = most
        assert choose(VERSION, where, fleet, busy, "session", slack=2, share=0.25) == home
        busy[str(home)] = most + 1
        assert choose(VERSION, where, fleet, busy, "session", slack=2, share=0.25) != home


def test_the_running_batch_comes_first_among_near_equals() -> None:
    active = frozenset({VERSION.worker_name})
    fleet = {name: seen(name) for name in NAMES} | {"w3": seen("w3", active=active)}
    where = [placed(name) for name in NAMES]
    for key in ("a", "b", "c", "d"):
        assert choose(VERSION, where, fleet, {"w3": 2}, key, slack=2) == "w3"
        assert choose(VERSION, where, fleet, {"w3": 3}, key, slack=2) != "w3"


def test_a_batch_with_other_adapters_is_no_reason() -> None:
    fleet = {name: seen(name) for name in NAMES}
    where = [placed(name) for name in NAMES]
    home = choose(VERSION, where, fleet, {}, "session", slack=2)
    for name in NAMES:
        other = fleet | {name: seen(name, active=frozenset({"other@1-00000009"}))}
        assert choose(VERSION, where, other, {}, "session", slack=2) == home


@given(fleets, st.lists(placements, max_size=8), st.sets(st.sampled_from(NAMES)))
def test_workers_that_are_shut_are_as_if_not_there(
    fleet: dict[str, Observed], where: list[Placement], shut: set[str]
) -> None:
    rest = {name: o for name, o in fleet.items() if name not in shut}
    assert choose(VERSION, where, fleet, {}, "key", shut=shut) == choose(
        VERSION, where, rest, {}, "key"
    )


def test_served_names() -> None:
    assert served_name(VERSION, seen("w0")) == "support@1-00000001"
    assert served_name(base_version(), seen("w0")) == "base@0"
    other = seen("w0", bases=frozenset({"org/model"}))
    assert served_name(base_version(), other) == "org/model"


def test_choosing_is_cheap() -> None:
    fleet = {f"w{i}": seen(f"w{i}") for i in range(8)}
    where = [placed(f"w{i}") for i in range(8)]
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(200):
            choose(VERSION, where, fleet, {}, "session")
        best = min(best, (time.process_time() - start) / 200)
    assert best < 200e-6  # ten times what it takes, so that a busy machine does not fail it
