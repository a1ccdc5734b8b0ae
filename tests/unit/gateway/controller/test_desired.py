"""What follows from what was seen of the workers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.controller.desired import (
    VERDICTS,
    Step,
    Trial,
    drained,
    next_step,
    plan,
)
from gateway.registry.records import in_flight
from gateway.registry.snapshot import Effect, Placement, VersionState
from gateway.workers.probe import Observed
from tests.unit.gateway.workers.fake import version

BASE = frozenset({"base@0"})


def seen(*adapters: str, worker: str = "w1", boot: str = "1.00", healthy: bool = True) -> Observed:
    return Observed(worker, healthy, boot, BASE | set(adapters), BASE)


def placed(
    version_id: int, effect: Effect = Effect.EFFECTIVE, boot: str = "1.00", worker: str = "w1"
) -> Placement:
    return Placement(worker, version_id, boot, effect, "why")


def test_a_missing_version_is_to_be_proven() -> None:
    one = version(1)
    assert plan(seen(), [one], {1: one}, ()).prove == (one,)


def test_a_proven_version_is_left_alone() -> None:
    one = version(1)
    todo = plan(seen(one.worker_name), [one], {1: one}, [placed(1)])
    assert (todo.prove, todo.forget, todo.drain) == ((), (), ())


def test_placements_of_a_dead_boot_are_forgotten() -> None:
    one = version(1)
    todo = plan(seen(one.worker_name, boot="2.00"), [one], {1: one}, [placed(1)])
    assert todo.forget == (1,)
    assert todo.prove == (one,)


def test_placements_without_their_name_are_forgotten() -> None:
    one = version(1)
    assert plan(seen(), [one], {1: one}, [placed(1)]).forget == (1,)


def test_a_bad_verdict_is_to_be_proven_again() -> None:
    one = version(1)
    todo = plan(seen(one.worker_name), [one], {1: one}, [placed(1, Effect.NO_EFFECT)])
    assert todo.prove == (one,)


def test_only_our_own_names_are_drained() -> None:
    retired = version(2, draining_since=5)
    lost, foreign = "old@3-0123abcd", "somebody-elses-adapter"
    shown = seen(retired.worker_name, lost, foreign)
    assert plan(shown, [], {2: retired}, ()).drain == (lost, retired.worker_name)


FAILED = Trial("1.00", VERDICTS, VERDICTS, 0.0, "no effect")


def test_one_proof_makes_a_candidate() -> None:
    fleet = {"w1": seen(), "w2": seen(worker="w2")}
    trials = {("w2", 1): FAILED}
    step = next_step(version(1), [placed(1)], fleet, trials)
    assert step == Step(VersionState.CANDIDATE, "w1: why")


def test_a_proof_of_another_boot_is_none() -> None:
    assert next_step(version(1), [placed(1, boot="0.00")], {"w1": seen()}, {}) is None


def test_every_healthy_worker_must_speak_against_it() -> None:
    fleet = {"w1": seen(), "w2": seen(worker="w2")}
    trials = {("w1", 1): FAILED}
    assert next_step(version(1), (), fleet, trials) is None
    fleet["w2"] = seen(worker="w2", healthy=False)
    step = next_step(version(1), (), fleet, trials)
    assert step == Step(VersionState.REJECTED, "w1: no effect")


def test_one_bad_verdict_is_not_enough() -> None:
    trials = {("w1", 1): replace(FAILED, verdicts=VERDICTS - 1)}
    assert next_step(version(1), (), {"w1": seen()}, trials) is None


def test_verdicts_of_another_boot_do_not_count() -> None:
    trials = {("w1", 1): replace(FAILED, boot="0.00")}
    assert next_step(version(1), (), {"w1": seen()}, trials) is None


def test_nobody_healthy_decides_nothing() -> None:
    assert next_step(version(1), (), {}, {}) is None


def test_versions_that_serve_are_not_rejected_here() -> None:
    serving = version(1, state=VersionState.SERVING)
    assert next_step(serving, (), {"w1": seen()}, {("w1", 1): FAILED}) is None


CALLS = [in_flight("w1", "a"), in_flight("w1", "b"), in_flight("w2", "a")]
beats = st.lists(
    st.tuples(st.integers(0, 9), st.sets(st.sampled_from(CALLS)).map(frozenset)), max_size=5
)


@given(beats, st.integers(0, 9))
def test_drained_means_that_nobody_can_still_call(
    live: list[tuple[int, frozenset[str]]], since: int
) -> None:
    stale = any(revision < since for revision, _ in live)
    busy = any(in_flight("w1", "a") in calls for _, calls in live)
    assert drained("w1", "a", since, live) == (not stale and not busy)


def test_a_static_worker_holds_what_it_shows_and_is_told_nothing() -> None:
    shown, lost, ended = version(1), version(2), version(3, draining_since=5)
    static = replace(seen(shown.worker_name, ended.worker_name), static=True)
    todo = plan(static, [shown], {1: shown, 2: lost, 3: ended}, ())
    assert (todo.prove, todo.drain) == ((shown,), ())


def test_workers_that_cannot_hold_a_version_do_not_speak_against_it() -> None:
    fleet = {"w1": seen(), "w2": replace(seen(worker="w2"), static=True)}
    step = next_step(version(1), (), fleet, {("w1", 1): FAILED})
    assert step == Step(VersionState.REJECTED, "w1: no effect")
    assert next_step(version(1), (), {"w2": fleet["w2"]}, {}) is None
