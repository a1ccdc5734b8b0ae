"""Canaries over a real registry and store: decided by what the captures say, in any process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from deploy.migrations import upgrade
from feedback.db import make_engine, writing
from feedback.tables import CAPTURES
from gateway.controller.canary import ACTOR, CanaryDriver
from gateway.errors import GatewayError
from gateway.registry.records import AliasMove
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias, Version, VersionState
from gateway.rollout.shadow import shadowed
from gateway.settings import RolloutSettings
from tests.unit.gateway.proven import WORKER, prove
from tests.unit.gateway.registry.adapter_files import BASE, write_adapter
from tests.unit.gateway.rollout.pairs import put_pairs

T = "default"
NOW = 1_800_000_000.0
DRIVEN = {"driven": True, "answers": 3, "job_id": "job-1", "gate_id": 7}
SETTINGS = RolloutSettings()
BLOCK = {"stage": "output", "action": "block"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/adapterloop.db"
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def registry(engine: Engine, tmp_path: Path) -> Registry:
    registry = Registry(engine, tmp_path / "storage", base_model=BASE, clock=lambda _: NOW)
    registry.prepare()
    return registry


@pytest.fixture
def driver(registry: Registry, engine: Engine) -> CanaryDriver:
    return CanaryDriver(registry, engine)


@pytest.fixture
def candidate(registry: Registry, tmp_path: Path) -> Callable[..., Version]:
    """Gives a verified version of an alias that the base answers for."""
    fills = itertools.count(1)

    def make(alias: str = "support") -> Version:
        fill = next(fills)
        registry.promote(T, alias, 0)
        version = registry.register(T, alias, write_adapter(tmp_path / f"a-{fill}", fill=fill))
        prove(registry, version)
        return registry.set_state(version.id, VersionState.CANDIDATE)

    return make


@pytest.fixture
def say(engine: Engine) -> Callable[..., None]:
    """Puts answers of a version into the store."""
    ids = itertools.count(1)

    def put(version: Version, *, times: int = 1, **changes: object) -> None:
        for _ in range(times):
            values = {
                "id": f"chatcmpl-{next(ids):048x}",
                "tenant": version.tenant,
                "alias": version.alias,
                "version": version.number,
                "version_id": version.id,
                "key_id": 1,
                "worker": "w",
                "route": "/v1/chat/completions",
                "messages": [],
                "parameters": {},
                "choices": [],
                "usage": {},
                "outcome": "ok",
                "audit": [],
                "started": NOW + 1,
                "duration": 1.0,
                "reasons": [],
                "inclusion_probability": 0.0,
                "keep_until": NOW * 2,
                "request_id": "r",
                "scrubber": "s",
                **changes,
            }
            with writing(engine) as connection:
                connection.execute(insert(CAPTURES).values(**values))

    return put


def newest(registry: Registry, alias: str = "support") -> AliasMove:
    (move,) = registry.latest_moves(T, alias, 1)
    return move


def leads(alias: Alias) -> tuple[int | None, int | None]:
    return tuple(v.number if v else None for v in (alias.stable, alias.candidate))  # type: ignore[return-value]


def test_only_answers_of_this_canary_count(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    say: Callable[..., None],
    engine: Engine,
) -> None:
    version = candidate()
    say(version, times=5, started=NOW - 1)  # pinned calls before it began
    registry.set_rollout(T, "support", 1, 0.2, "trainer", DRIVEN)
    say(version, times=5, version_id=99)  # the stable version's
    say(version, times=5, tenant="another")
    say(version, times=5, alias="other")
    instead = {"wanted": "support@2", "answered": "support@1"}  # of callers that were not drawn
    say(version, times=5, fallback=instead)
    say(version, outcome="worker_failed", fallback=instead)
    for outcome in ("client_gone", "no_worker", "content_policy_violation", "guards_unavailable"):
        say(version, outcome=outcome)
    say(version, times=2)
    driver.step()
    assert leads(registry.alias(T, "support")) == (0, 1)
    say(version, audit=[BLOCK])  # a guard did its work: told, and no fault
    CanaryDriver(registry, engine).step()  # another leader knows as much
    assert leads(registry.alias(T, "support")) == (1, None)
    move = newest(registry)
    assert (move.kind, move.from_version, move.to_version, move.actor) == ("promote", 0, 1, ACTOR)
    assert move.detail == {
        "answers": 3,
        "hard_faults": 0,
        "gate_id": 7,
        "needed": 3,
        "reason": "3 answers without a hard fault",
        "job_id": "job-1",
    }
    driver.step()
    assert newest(registry) == move  # nothing is done twice


def test_a_hard_fault_rolls_back_even_after_enough_answers(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    say: Callable[..., None],
) -> None:
    version = candidate()
    registry.set_rollout(T, "support", 1, 0.2, "trainer", DRIVEN)
    say(version, times=9)
    say(version, outcome="worker_failed")
    driver.step()
    assert leads(registry.alias(T, "support")) == (0, None)
    move = newest(registry)
    assert (move.kind, move.from_version, move.to_version) == ("rollback", 1, 0)
    assert (move.detail["hard_faults"], move.detail["answers"]) == (1, 9)


@pytest.mark.parametrize("boot", ["", "101.00"])
def test_more_callers_only_where_the_candidate_is_proven(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    say: Callable[..., None],
    boot: str,
) -> None:
    """Its only worker is down, or has restarted, just as it has answered often enough."""
    version = candidate()
    steps = {**DRIVEN, "steps": [0.2, 0.5]}
    registry.set_rollout(T, "support", 1, 0.2, "trainer", steps)
    say(version, times=3)
    registry.record_worker(WORKER, boot=boot, healthy=bool(boot))
    driver.step()
    assert registry.alias(T, "support").weight == 0.2
    prove(registry, version)
    driver.step()
    assert registry.alias(T, "support").weight == 0.5
    registry.record_worker(WORKER, boot=boot, healthy=bool(boot))
    say(version, outcome="worker_failed")
    driver.step()  # away from it always
    assert leads(registry.alias(T, "support")) == (0, None)


def test_a_share_that_rises_as_a_slow_hour_begins_is_not_held_against_the_candidate(
    candidate: Callable[..., Version], say: Callable[..., None], engine: Engine, tmp_path: Path
) -> None:
    """Both versions answer in a second at night, in three by day, and give the same answers."""
    version = candidate()
    now = NOW
    registry = Registry(engine, tmp_path / "storage", base_model=BASE, clock=lambda _: now)
    driver = CanaryDriver(registry, engine)
    stable = registry.alias(T, "support").stable
    assert stable is not None
    plan = {**SETTINGS.plan(), "driven": True, "steps": [0.1, 0.5], "answers": 20}
    registry.set_rollout(T, "support", 1, 0.1, "trainer", plan)

    def answer(seconds: float, of_stable: int, of_candidate: int) -> None:
        for one, times in ((stable, of_stable), (version, of_candidate)):
            for each in (0.9 * seconds, 1.1 * seconds):
                own = {"tenant": T, "alias": "support", "started": now + 1}
                say(one, times=times // 2, duration=each, **own)

    answer(1.0, 180, 20)
    now = NOW + 100
    driver.step()
    assert registry.alias(T, "support").weight == 0.5
    answer(3.0, 30, 30)
    driver.step()
    assert (leads(registry.alias(T, "support")), newest(registry).at) == ((0, 1), now)
    answer(3.0, 400, 400)
    driver.step()
    assert leads(registry.alias(T, "support")) == (1, None)
    told = newest(registry).detail["measures"]["seconds"]
    assert (told["candidate"], told["stable"]) == (3.0, 3.0)


def test_what_people_start_or_end_is_theirs(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    say: Callable[..., None],
) -> None:
    version = candidate()
    registry.set_rollout(T, "support", 1, 0.2, "trainer", DRIVEN)
    registry.rollback(T, "support", "a person")
    say(version, times=9)
    driver.step()
    assert leads(registry.alias(T, "support")) == (0, None)
    registry.set_rollout(T, "support", 1, 0.5, "a person", {"steps": [0.5]})
    driver.step()
    assert leads(registry.alias(T, "support")) == (0, 1)


def test_a_person_who_is_quicker_wins(
    registry: Registry, candidate: Callable[..., Version]
) -> None:
    """The driver has decided, and meanwhile someone sets another share for the same version."""
    candidate()
    registry.set_rollout(T, "support", 1, 0.2, "trainer", DRIVEN)
    begun = newest(registry)
    registry.set_rollout(T, "support", 1, 0.5, "a person", {"steps": [0.5]})
    alias = registry.alias(T, "support")
    for share in (1, 0.7, 0):
        assert not registry.drive_rollout(alias, 1, begun, share, actor=ACTOR, detail={})
    assert leads(registry.alias(T, "support")) == (0, 1)


def test_one_alias_in_trouble_holds_up_no_other(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    say: Callable[..., None],
) -> None:
    for alias in ("a", "b"):
        version = candidate(alias)
        registry.set_rollout(T, alias, 1, 0.2, "trainer", DRIVEN)
        say(version, times=3)
    registry.set_state(registry.version(T, "a", 1).id, VersionState.VERIFYING)
    with pytest.raises(GatewayError, match="a@1 is verifying"):
        driver.step()
    assert leads(registry.alias(T, "a")) == (0, 1)
    assert leads(registry.alias(T, "b")) == (1, None)


def shadow(registry: Registry, **detail: object) -> None:
    plan = shadowed({**SETTINGS.plan(), **detail}, SETTINGS, {"share": 0.3, "answers": 40})
    registry.set_rollout(T, "support", 1, 0.0, "ann", plan, shadow=0.3)


def test_a_shadow_goes_on_from_the_record_and_counts_only_its_own_pairs(
    registry: Registry, driver: CanaryDriver, candidate: Callable[..., Version], engine: Engine
) -> None:
    version = candidate()
    base = registry.alias(T, "support").stable
    assert base is not None
    put_pairs(engine, version.id, base.id, 60, started=NOW - 1)  # of an earlier one
    shadow(registry, gate_id=7, job_id="job-1")
    alias = registry.alias(T, "support")
    assert (leads(alias), alias.weight, alias.shadow) == ((0, 1), 0.0, 0.3)
    put_pairs(engine, version.id, 99, 60)  # beside another stable version
    put_pairs(engine, version.id, base.id, 60, alias="other")
    put_pairs(engine, version.id, base.id, 39)
    driver.step()
    assert registry.alias(T, "support").shadow == 0.3
    put_pairs(engine, version.id, base.id)
    CanaryDriver(registry, engine).step()  # the leader that follows knows as much
    alias, move = registry.alias(T, "support"), newest(registry)
    assert (leads(alias), alias.weight, alias.shadow) == ((0, 1), 0.1, 0.0)
    assert (move.kind, move.actor, move.is_shadow, move.is_driven) == (
        "rollout",
        ACTOR,
        False,
        True,
    )
    told = move.detail
    assert (told["pairs"], told["gate_id"], told["job_id"], told["step"]) == (40, 7, "job-1", 0)
    assert (told["logprob_difference"], told["same_text"]) == (0.25, 0.5)
    assert told["measures"]["errors"]["calls"] == [40, 40]
    assert move.since == move.at  # its canary begins only now
    driver.step()
    assert newest(registry) == move


@pytest.mark.parametrize(
    ("measure", "changes"),
    [
        ("errors", {"candidate_failed": True}),
        ("blocks", {"candidate_blocked": True}),
        ("seconds", {"candidate_seconds": 2.0}),
    ],
)
def test_a_shadow_that_is_worse_is_rolled_back(
    registry: Registry,
    driver: CanaryDriver,
    candidate: Callable[..., Version],
    engine: Engine,
    measure: str,
    changes: dict[str, object],
) -> None:
    version = candidate()
    base = registry.alias(T, "support").stable
    assert base is not None
    shadow(registry)
    put_pairs(engine, version.id, base.id, 15)
    driver.step()
    assert newest(registry).is_shadow
    put_pairs(engine, version.id, base.id, 20, **changes)
    driver.step()
    move = newest(registry)
    assert (move.kind, move.from_version, move.to_version) == ("rollback", 1, 0)
    assert move.detail["reason"].startswith(f"{measure} are worse: ")
    assert move.detail["measures"][measure]["low"] > 0
    assert registry.alias(T, "support").shadow == 0


def test_what_both_versions_fail_is_nobodys_fault(
    registry: Registry, driver: CanaryDriver, candidate: Callable[..., Version], engine: Engine
) -> None:
    version = candidate()
    base = registry.alias(T, "support").stable
    assert base is not None
    shadow(registry, evidence="answers")
    put_pairs(engine, version.id, base.id, 40, candidate_failed=True, stable_failed=True)
    driver.step()
    assert newest(registry).detail["reason"] == "40 answers without a hard fault"
    assert registry.alias(T, "support").weight == 0.1


def test_after_a_shadow_with_one_step_a_person_goes_on(
    registry: Registry, driver: CanaryDriver, candidate: Callable[..., Version], engine: Engine
) -> None:
    version = candidate()
    base = registry.alias(T, "support").stable
    assert base is not None
    plan = shadowed({"steps": [0.2]}, SETTINGS, {"share": 1, "answers": 5})
    registry.set_rollout(T, "support", 1, 0.0, "ann", plan, shadow=1)
    put_pairs(engine, version.id, base.id, 5)
    driver.step()
    assert (registry.alias(T, "support").weight, newest(registry).is_driven) == (0.2, False)
    shadow(registry)
    registry.rollback(T, "support", "ann")
    assert (leads(registry.alias(T, "support")), registry.alias(T, "support").shadow) == (
        (0, None),
        0,
    )
