"""Canaries whose versions are held to what the gate learned of their sureness."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from gateway.controller.canary import CanaryDriver
from gateway.registry.service import Registry
from gateway.registry.snapshot import Version
from gateway.rollout.risk import Calibration, Calibrations

from .test_canary import T, candidate, driver, engine, leads, newest, registry, say  # noqa: F401

SURE = {"slope": 3.0, "intercept": 2.0, "items": 400}
SHY = {"slope": 3.0, "intercept": 5.0, "items": 400}
"""As often right at one nat less."""
PLAN = {"driven": True, "steps": [0.5], "answers": 100, "evidence": "test", "alpha": 0.05}


@pytest.fixture
def answers(registry: Registry, say: Callable[..., None]) -> Callable[..., None]:  # noqa: F811
    """Puts answers of two versions into the store, as sure as told, each by a user of its own."""
    users = itertools.count()

    def put(mine: Version, sureness: float, others: float, times: int = 300) -> None:
        stable = registry.alias(T, "support").stable
        assert stable is not None
        spread = itertools.cycle((-0.2, 0.0, 0.2))
        for shift, _ in zip(spread, range(times), strict=False):
            for version, mean in ((mine, sureness), (stable, others)):
                about = {"alias": "support", "tenant": T, "version_id": version.id}
                say(mine, **about, session=f"u{next(users)}", confidence_mean=mean + shift)

    return put


def begin(registry: Registry, calibration: object) -> None:  # noqa: F811
    detail = {**PLAN, "calibration": calibration}
    registry.set_rollout(T, "support", 1, 0.5, "trainer", detail)


def test_a_candidate_that_is_unsure_where_it_is_mostly_wrong_is_rolled_back(
    registry: Registry,  # noqa: F811
    driver: CanaryDriver,  # noqa: F811
    candidate: Callable[..., Version],  # noqa: F811
    answers: Callable[..., None],
) -> None:
    version = candidate()
    begin(registry, {"candidate": SURE, "against": SURE})
    answers(version, -1.2, -0.3)
    driver.step()
    move = newest(registry)
    assert (move.kind, leads(registry.alias(T, "support"))) == ("rollback", (0, None))
    assert move.detail["reason"].startswith("risks are worse: ")
    told = move.detail["measures"]["risks"]
    assert told["candidate"] > 0.7 > 0.3 > told["stable"]


@pytest.mark.parametrize(
    "calibration",
    [
        {"candidate": SHY, "against": SURE},  # right as often, and less sure of it
        {"candidate": {**SURE, "items": 4}, "against": SURE},  # hardly known
        {"candidate": {**SURE, "slope": 0.0}, "against": SURE},  # says nothing
        {"candidate": SURE},
        None,
    ],
)
def test_less_sure_is_not_worse(
    registry: Registry,  # noqa: F811
    driver: CanaryDriver,  # noqa: F811
    candidate: Callable[..., Version],  # noqa: F811
    answers: Callable[..., None],
    calibration: object,
) -> None:
    version = candidate()
    begin(registry, calibration)
    answers(version, -1.3, -0.3)
    driver.step()
    assert newest(registry).kind == "promote"


def test_the_record_is_read_with_care() -> None:
    assert Calibrations.of({"calibration": {"candidate": "x"}}) is None
    found = Calibrations.of({"calibration": {"candidate": SURE, "against": SHY}})
    assert found is not None
    assert found.against == Calibration(3.0, 5.0, 400)
    assert found.candidate.risk(-1000.0) == pytest.approx(1.0)
    assert found.candidate.risk(1000.0) == pytest.approx(0.0)
