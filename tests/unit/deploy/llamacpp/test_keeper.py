"""What the keeper does with its servers, step by step; nothing runs, and time is moved by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from deploy.llamacpp import keeper
from deploy.llamacpp.keeper import (
    DRAIN_S,
    HOLD_S,
    PROVE_S,
    SETTLE_S,
    SILENT_S,
    START_S,
    TRIES,
    Facts,
    Keeper,
)
from gateway.registry.snapshot import Version, VersionState


def version(number: int) -> Version:
    sha = f"{number:064x}"
    return Version(
        number, "default", "support", number, sha, "/x", "base", 8, VersionState.CANDIDATE
    )


def name(number: int) -> str:
    return version(number).worker_name


@dataclass
class Fake:
    """A server whose life the test decides."""

    port: int
    adapters: tuple[str, ...]
    alive: bool = True
    healthy: bool = True
    busy: bool = False
    restarts: int = 0
    stays_dead: bool = False
    stopped: bool = False

    def restart(self) -> None:
        self.restarts += 1
        self.alive = not self.stays_dead

    def stop(self) -> None:
        self.alive, self.stopped = False, True


@dataclass
class Machine:
    """The registry, the machine and the clock."""

    facts: Facts | None = field(default_factory=Facts)
    made: list[Fake] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)
    left_out: Mapping[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    now: float = 0.0
    fails_with: str = ""
    disk_full: bool = False

    def look(self) -> Facts | None:
        return self.facts

    def start(self, adapters: Sequence[str]) -> Fake:
        fake = Fake(8001 + len(self.made), tuple(adapters))
        if self.fails_with in adapters:
            fake.alive, fake.healthy, fake.stays_dead = False, False, True
        self.made.append(fake)
        return fake

    def worker(self, server: keeper.Server) -> str:
        return str(server.port)

    def announce(self, servers: Sequence[keeper.Server], left_out: Mapping[str, str]) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.listed, self.left_out = [server.port for server in servers], left_out

    def prepare(self, version: Version) -> str | None:
        self.prepared.append(version.worker_name)
        return self.refused.get(version.worker_name)

    def clean(self, server: keeper.Server, kept: Iterable[str]) -> None:
        self.kept = set(kept)

    def tell(self, *wanted: int, **more: object) -> None:
        self.facts = Facts([version(number) for number in wanted], **more)  # type: ignore[arg-type]


def kept_by(machine: Machine, room: int = 8) -> Keeper:
    return Keeper(machine, room, lambda: machine.now)


PROVEN = {"8001": {name(1)}, "8002": {name(1)}}


def test_the_first_server_starts_with_what_is_wanted_and_gets_calls_at_once() -> None:
    machine = Machine()
    machine.tell(2, 1)
    kept_by(machine)
    assert [server.adapters for server in machine.made] == [(name(2), name(1))]
    assert machine.listed == [8001]


def test_no_more_than_there_is_room_for_and_the_most_needed_first() -> None:
    machine = Machine()
    machine.tell(3, 2, 1)
    kept_by(machine, room=2)
    assert machine.made[0].adapters == (name(3), name(2))


def test_without_the_registry_the_base_serves() -> None:
    machine = Machine(facts=None)
    kept = kept_by(machine)
    kept.step()
    assert machine.made[0].adapters == ()
    assert machine.listed == [8001]


def test_a_new_version_comes_on_a_second_server_and_the_first_one_leaves_last() -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    first, second = machine.made
    assert second.adapters == (name(1), name(2))
    second.healthy = False
    kept.step()
    assert machine.listed == [8001]  # no calls before it answers
    second.healthy = True
    kept.step()
    assert machine.listed == [8001, 8002]
    kept.step()
    assert machine.listed == [8001, 8002]  # the controller has not seen it yet
    machine.tell(1, 2, healthy={"8002": True}, proven={"8001": {name(1)}})
    kept.step()
    assert machine.listed == [8001, 8002]  # nothing is proven on it yet
    machine.tell(1, 2, healthy={"8002": True}, proven=PROVEN, called={"8001", "8002"})
    kept.step()
    assert machine.listed == [8002]
    kept.step()
    assert not first.stopped  # gateways know it still
    machine.tell(1, 2, called={"8002"}, behind=True)
    kept.step()
    assert not first.stopped  # one of them may
    machine.tell(1, 2, called={"8002"})
    first.busy = True
    kept.step()
    assert not first.stopped  # a call is under way
    first.busy = False
    kept.step()
    assert first.stopped
    assert machine.kept == {name(1), name(2)}
    kept.step()
    assert len(machine.made) == 2


def moved(machine: Machine) -> Keeper:
    """A keeper whose second server has just taken over."""
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    kept.step()
    machine.tell(1, 2, healthy={"8002": True}, proven=PROVEN, called={"8001"})
    kept.step()
    assert machine.listed == [8002]
    return kept


def test_versions_that_take_turns_bring_an_exchange_now_and_then_only() -> None:
    machine = Machine()
    kept = moved(machine)
    machine.tell(1, 3)
    kept.step()
    machine.now = SETTLE_S - 1
    kept.step()
    assert len(machine.made) == 2
    machine.now = SETTLE_S
    kept.step()
    assert machine.made[2].adapters == (name(1), name(3))


def test_a_call_that_never_ends_keeps_a_server_for_so_long_only() -> None:
    machine = Machine()
    kept = moved(machine)
    machine.now = DRAIN_S
    kept.step()
    assert not machine.made[0].stopped
    machine.now = DRAIN_S + 1
    kept.step()
    assert machine.made[0].stopped


def test_what_the_new_server_never_proves_does_not_hold_it_back_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    kept.step()
    machine.tell(1, 2, healthy={"8002": True}, proven={"8001": {name(1)}})
    for machine.now in (1.0, PROVE_S):
        kept.step()
        assert machine.listed == [8001, 8002]
    machine.now = PROVE_S + 1
    kept.step()
    assert machine.listed == [8002]
    assert name(1) in caplog.text


def test_a_version_that_is_wanted_no_longer_starts_nothing() -> None:
    machine = Machine()
    machine.tell(1, 2)
    kept = kept_by(machine)
    machine.tell(1)
    kept.step()
    assert len(machine.made) == 1


def test_a_server_that_ends_is_started_again_on_its_port() -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.made[0].alive = False
    kept.step()
    assert (machine.made[0].restarts, machine.listed) == (1, [8001])
    machine.facts = None
    machine.made[0].alive, machine.now = False, 100.0
    kept.step()
    assert machine.made[0].restarts == 2  # also while the registry is away


def test_an_adapter_with_which_it_does_not_start_is_left_out_for_a_while() -> None:
    machine = Machine(fails_with=name(2))
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    for _ in range(TRIES + 3):
        kept.step()
        machine.now += 10
    assert machine.made[0].alive
    assert machine.listed == [8001]
    assert len(machine.made) == 2
    assert machine.left_out == {name(2): f"llama-server does not start with {name(2)}"}
    machine.now += HOLD_S
    kept.step()
    assert len(machine.made) == 3
    assert machine.left_out == {}  # until that one has ended too


def test_a_first_server_that_does_not_start_serves_the_base_instead() -> None:
    machine = Machine(fails_with=name(1))
    machine.tell(1)
    kept = kept_by(machine)
    for _ in range(TRIES + 2):
        kept.step()
        machine.now += 10
    assert machine.made[-1].adapters == ()
    assert machine.listed == [machine.made[-1].port]


def test_a_second_server_that_never_answers_is_given_up() -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    machine.made[1].healthy = False
    machine.now = START_S + 1
    kept.step()
    kept.step()
    assert machine.made[1].stopped
    assert machine.listed == [8001]


@pytest.mark.parametrize("seen_first", [False, True], ids=["at once", "after a while"])
def test_a_second_server_that_hangs_once_it_is_listed_is_given_up(seen_first: bool) -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    kept.step()
    assert machine.listed == [8001, 8002]
    if seen_first:
        machine.tell(1, 2, healthy={"8002": True}, proven={"8001": {name(1)}})
        kept.step()
    second = machine.made[1]
    second.busy = True  # as far as one that says nothing tells
    machine.tell(1, 2, healthy={"8001": True, "8002": False}, called={"8001"})
    for machine.now in (10.0, 10.0 + SILENT_S):
        kept.step()
        assert machine.listed == [8001, 8002]
    machine.now += 1
    kept.step()
    assert machine.listed == [8001]
    assert machine.left_out == {name(2): f"llama-server does not answer with {name(2)}"}
    machine.now += DRAIN_S + 1
    kept.step()
    assert second.stopped
    assert machine.made[2].adapters == (name(1), name(2)), "the time to leave it out is over"


def test_a_second_server_that_answers_again_in_time_goes_on() -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    kept.step()
    kept.step()
    for machine.now in (0.0, SILENT_S, PROVE_S - 1):
        machine.tell(1, 2, healthy={"8002": False})
        kept.step()
        machine.tell(1, 2, healthy={"8002": True}, proven={"8001": {name(1)}})
        kept.step()
        assert machine.listed == [8001, 8002]
    machine.tell(1, 2, healthy={"8002": True}, proven=PROVEN)
    kept.step()
    assert machine.listed == [8002]


def test_a_second_server_that_nobody_has_asked_yet_is_not_given_up() -> None:
    machine = Machine()
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)  # no controller reads the list
    for machine.now in (0.0, 1.0, SILENT_S, 3 * SILENT_S):
        kept.step()
    assert machine.listed == [8001, 8002]


def test_what_cannot_be_converted_is_left_out_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine(refused={name(2): "of another family"})
    machine.tell(1, 2)
    kept = kept_by(machine)
    kept.step()
    assert machine.made[0].adapters == (name(1),)
    assert len(machine.made) == 1
    assert caplog.text.count("of another family") == 1


def test_what_is_left_out_is_told_for_as_long_as_it_is_wanted() -> None:
    machine = Machine(refused={name(2): "of another family"})
    machine.tell(1)
    kept = kept_by(machine)
    machine.tell(1, 2)
    for machine.now in (0.0, 1.0, HOLD_S + 1):
        kept.step()
        assert (machine.listed, machine.left_out) == ([8001], {name(2): "of another family"})
    machine.tell(1)
    kept.step()
    assert machine.left_out == {}
    machine.tell(1, 2)
    machine.refused, machine.now = {}, 3 * HOLD_S
    kept.step()
    assert machine.left_out == {}
    assert machine.made[1].adapters == (name(1), name(2))


def test_the_end_ends_every_server() -> None:
    machine = Machine()
    moved(machine).stop()
    assert all(server.stopped for server in machine.made)


def test_a_step_that_fails_comes_again_and_ends_no_server() -> None:
    machine = Machine()
    kept = kept_by(machine)
    machine.tell(1)
    machine.disk_full = True
    for _ in range(2):
        kept.step()
    assert [server.stopped for server in machine.made] == [False, False]
    assert machine.listed == [8001]
    machine.disk_full = False
    kept.step()
    assert machine.listed == [8001, 8002]
