"""Publishing, and rollouts that the controller drives, over the admin API."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from feedback.db import reading
from gateway.controller.canary import CanaryDriver
from gateway.registry.service import Registry
from gateway.rollout.measures import Since, series
from gateway.settings import RolloutSettings, ShadowSettings
from tests.unit.gateway.proven import prove
from tests.unit.gateway.rollout.pairs import put_pairs

from .conftest import Clients
from .loop import answered, flag, gate
from .test_adapters import add as register

ROLLOUT = RolloutSettings()


async def add(admin: httpx.AsyncClient, registry: Registry, folder: Path, fill: int) -> None:
    """Upload a version that a worker is then proven to answer with."""
    number = await register(admin, registry, folder, fill)
    prove(registry, registry.version("default", "support", number))


async def test_only_what_passed_is_published_and_the_controller_promotes_it(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, clients: Clients, tmp_path: Path
) -> None:
    promoted = await admin.post("/adapters/support/promote", json={"version": 0})
    assert (promoted.status_code, promoted.json()["stable"]) == (200, 0)
    await add(admin, registry, tmp_path, 1)
    trainer = await clients("trainer")
    publish = {"version": 1, "job_id": "job-1"}
    early = await trainer.post("/adapters/support/publish", json=publish)
    assert (early.status_code, "no gate report" in early.json()["error"]["message"]) == (409, True)
    await trainer.post("/gates", json=gate("INCONCLUSIVE"))
    held = await trainer.post("/adapters/support/publish", json=publish)
    assert "The gate says INCONCLUSIVE" in held.json()["error"]["message"]
    await trainer.post("/gates", json=gate("PASS"))
    for _ in range(2):  # again changes nothing
        told = (await trainer.post("/adapters/support/publish", json=publish)).json()
        assert (told["stable"], told["candidate"]) == (0, 1)

    driver = CanaryDriver(registry, app.state.serving.database, ROLLOUT)
    version, base = registry.version("default", "support", 1), registry.version("t", "base", 0)
    for number in range(ROLLOUT.answers - 1):
        answered(app, number, version_id=version.id)
    driver.step()
    assert registry.alias("default", "support").weight == 0.1
    for number in range(100, 140):
        answered(app, number, version_id=version.id)
    driver.step()
    assert registry.alias("default", "support").weight == 0.5
    driver.step()  # nothing is known of the base yet
    assert registry.alias("default", "support").candidate is not None
    for number in range(200, 280):
        answered(app, number, version_id=base.id)
        answered(app, number + 100, version_id=version.id)
    driver.step()
    driver.step()
    detail = (await admin.get("/adapters/support")).json()
    assert (detail["stable"], detail["previous"], detail["candidate"]) == (1, 0, None)
    moves = detail["events"]
    assert [move["kind"] for move in moves] == ["promote", "rollout", "rollout", "promote"]
    flags = moves[-1]["detail"]["measures"]["flags"]
    assert (flags["calls"], flags["fine"] > 20 > flags["worse"]) == ([144, 80], True)
    assert flags["low"] < flags["difference"] < flags["high"] < ROLLOUT.margin
    assert moves[-1]["actor"] == "controller"
    back = (await admin.post("/adapters/support/rollback")).json()
    assert (back["stable"], back["previous"]) == (0, 1)


@pytest.mark.parametrize("trouble", ["flags", "blocks", "errors", "seconds"])
async def test_a_canary_that_is_worse_is_rolled_back(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path, trouble: str
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    steps = {"version": 1, "steps": [0.1, 0.5, 1]}
    await admin.post("/adapters/support/rollout", json=steps)
    version, base = registry.version("default", "support", 1), registry.version("t", "base", 0)
    block = {"stage": "output", "action": "block"}
    changes: dict[str, dict[str, object]] = {
        "flags": {},
        "blocks": {"audit": [block], "reasons": ["guarded"]},
        "errors": {"outcome": "worker_failed"},
        "seconds": {"duration": 3.0},
    }
    for number in range(80):
        answered(app, number, version_id=base.id, duration=1 + number / 1000)
        bad = changes[trouble] if number % 2 else {}
        answer = answered(app, number + 100, version_id=version.id, **bad)
        if trouble == "flags" and number % 2:
            flag(app, answer)
    CanaryDriver(registry, app.state.serving.database, ROLLOUT).step()
    alias = registry.alias("default", "support")
    assert (alias.candidate, alias.stable is not None and alias.stable.is_base) == (None, True)
    last = (await admin.get("/adapters/support")).json()["events"][-1]
    assert last["kind"] == "rollback"
    assert last["detail"]["reason"].startswith(f"{trouble} are worse: ")
    assert last["detail"]["measures"][trouble]["low"] > 0


async def test_time_in_the_queue_is_no_versions_fault(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    await admin.post("/adapters/support/rollout", json={"version": 1, "steps": [0.1, 0.5, 1]})
    version, base = registry.version("default", "support", 1), registry.version("t", "base", 0)
    for number in range(80):
        seconds = 1 + number / 1000
        answered(app, number, version_id=base.id, duration=seconds)
        waited = {"duration": seconds + 200, "queued": 200.0}
        answered(app, number + 100, version_id=version.id, **waited)
    CanaryDriver(registry, app.state.serving.database, ROLLOUT).step()
    last = (await admin.get("/adapters/support")).json()["events"][-1]
    assert (last["kind"], last["actor"]) == ("rollout", "controller")
    found = last["detail"]["measures"]["seconds"]
    assert found["difference"] == pytest.approx(0, abs=0.01)
    with reading(app.state.serving.database) as connection:
        told = series(connection, Since(registry.alias("default", "support"), 0.0), version)
    assert max(answer.seconds for answer in told) < 2


async def test_by_answers_one_hard_fault_is_enough_and_a_persons_single_step_is_left_alone(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    version = registry.version("default", "support", 1)
    plan = RolloutSettings(evidence="answers").plan()
    registry.set_rollout("default", "support", 1, 0.1, "ann", plan)
    answered(app, 1, version_id=version.id, outcome="worker_failed")
    driver = CanaryDriver(registry, app.state.serving.database, ROLLOUT)
    driver.step()
    assert registry.alias("default", "support").candidate is None
    await admin.post("/adapters/support/rollout", json={"version": 1, "steps": [0.5]})
    driver.step()
    assert registry.alias("default", "support").candidate is not None


async def test_steps_that_do_not_end_at_one_wait_for_a_person(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    await admin.post("/adapters/support/rollout", json={"version": 1, "steps": [0.1, 0.5]})
    version, base = registry.version("default", "support", 1), registry.version("t", "base", 0)
    for number in range(80):
        answered(app, number, version_id=version.id)
        answered(app, number + 100, version_id=base.id)
    driver = CanaryDriver(registry, app.state.serving.database, ROLLOUT)
    for look in range(3):
        driver.step()
        for number in range(ROLLOUT.answers):
            answered(app, 1000 * (look + 1) + number, version_id=version.id)
    now = registry.alias("default", "support")
    assert (now.candidate is not None, now.weight) == (True, 0.5)


async def test_a_rollout_may_begin_with_copies(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    body: dict[str, object] = {"version": 1, "steps": [0.1, 1]}
    for bad in ({"share": 0}, {"share": 1.5}, {"share": "some"}, {"answers": 0}, {"shares": 1}):
        answer = await admin.post("/adapters/support/rollout", json={**body, "shadow": bad})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].endswith(next(iter(bad))), bad
    alone = {**body, "steps": [1], "shadow": {}}
    answer = await admin.post("/adapters/support/rollout", json=alone)
    assert (answer.status_code, "begin below 1" in answer.json()["error"]["message"]) == (400, True)
    told = (await admin.post("/adapters/support/rollout", json={**body, "shadow": {}})).json()
    assert (told["candidate"], told["weight"], told["shadow"]) == (1, 0, ROLLOUT.shadow.share)
    more = {**body, "shadow": {"share": 0.5, "answers": 9}}
    assert (await admin.post("/adapters/support/rollout", json=more)).json()["shadow"] == 0.5
    move = (await admin.get("/adapters/support")).json()["events"][-1]
    assert move["detail"]["shadow"] == {"share": 0.5, "answers": 9}
    assert (move["detail"]["weight"], move["detail"]["alpha"]) == (0, ROLLOUT.alpha / 2)
    ended = (await admin.post("/adapters/support/promote", json={"version": 1})).json()
    assert (ended["stable"], ended["shadow"]) == (1, 0)


async def test_publishing_begins_with_copies_where_that_is_configured(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, clients: Clients, tmp_path: Path
) -> None:
    serving = app.state.serving
    rollout = RolloutSettings(shadow=ShadowSettings(share=0.4, answers=5, publish=True))
    serving.settings = serving.settings.model_copy(update={"rollout": rollout})
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    trainer = await clients("trainer")
    await trainer.post("/gates", json=gate("PASS"))
    publish = {"version": 1, "job_id": "job-1"}
    told = (await trainer.post("/adapters/support/publish", json=publish)).json()
    assert (told["candidate"], told["weight"], told["shadow"]) == (1, 0, 0.4)
    version, base = registry.version("default", "support", 1), registry.version("t", "base", 0)
    put_pairs(serving.database, version.id, base.id, 5)
    CanaryDriver(registry, serving.database, rollout).step()
    assert registry.alias("default", "support").weight == rollout.steps[0]
    move = (await admin.get("/adapters/support")).json()["events"][-1]
    assert (move["detail"]["job_id"], move["detail"]["driven"]) == ("job-1", True)
