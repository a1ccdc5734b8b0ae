"""Which versions publishing takes, and what it leaves as people have set it."""

from __future__ import annotations

from pathlib import Path

import httpx
from fastapi import FastAPI

from gateway.registry.service import Registry
from gateway.registry.snapshot import VersionState
from gateway.settings import BaseModelSettings, GatewaySettings
from tests.unit.gateway.registry.adapter_files import BASE, config, write_adapter

from .conftest import Clients
from .loop import gate
from .test_adapters import add

PUBLISH = "/adapters/support/publish"


async def passed(admin: httpx.AsyncClient, number: int, against: str = "base") -> None:
    report = {**gate("PASS", against), "candidate": f"support@{number}"}
    assert (await admin.post("/gates", json=report)).status_code == 201


async def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


async def test_where_nothing_serves_the_version_is_promoted_at_once(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    assert (await admin.post(PUBLISH, json={"version": 1})).status_code == 404
    await add(admin, registry, tmp_path, 1)
    assert (await admin.post(PUBLISH, json={"version": 1})).status_code == 409
    await passed(admin, 1)
    first = await admin.post(PUBLISH, json={"version": 1, "job_id": "job-1"})
    assert (first.status_code, first.json()["stable"], first.json()["candidate"]) == (200, 1, None)
    (move,) = (await admin.get("/adapters/support")).json()["events"]
    assert (move["kind"], move["detail"]["job_id"]) == ("promote", "job-1")
    assert (await admin.post(PUBLISH, json={"version": 9})).status_code == 409


async def test_the_verdict_must_be_on_what_serves_now(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    for fill in (1, 2):
        await add(admin, registry, tmp_path / str(fill), fill)
    await passed(admin, 2)
    await admin.post("/adapters/support/promote", json={"version": 1})
    status, message = await told(await admin.post(PUBLISH, json={"version": 2}))
    assert (status, "no gate report on support@2 against support@1" in message) == (409, True)
    await passed(admin, 2, "support@1")
    await admin.post(
        "/gates", json={**gate("FAIL", "support@1"), "candidate": "support@2", "job_id": "later"}
    )
    status, message = await told(await admin.post(PUBLISH, json={"version": 2}))
    assert (status, "The gate says FAIL" in message) == (409, True)
    await passed(admin, 2, "support@1")
    begun = (await admin.post(PUBLISH, json={"version": 2})).json()
    assert (begun["stable"], begun["candidate"], begun["weight"]) == (1, 2, 0.1)


async def test_a_canary_that_a_person_ended_stays_ended(
    admin: httpx.AsyncClient, registry: Registry, clients: Clients, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    await passed(admin, 1)
    trainer = await clients("trainer")
    once = {"version": 1, "job_id": "job-1"}
    assert (await trainer.post(PUBLISH, json=once)).json()["candidate"] == 1
    await admin.post("/adapters/support/rollback")
    # The trainer was killed before it noted the stage, and says it again.
    again = await trainer.post(PUBLISH, json=once)
    assert (again.status_code, again.json()["candidate"]) == (200, None)
    await passed(admin, 1)
    for body in ({"version": 1, "job_id": "job-2"}, {"version": 1}):
        status, message = await told(await trainer.post(PUBLISH, json=body))
        assert (status, "was rolled back before" in message) == (409, True)
    by_hand = {"version": 1, "steps": [0.5]}
    assert (await admin.post("/adapters/support/rollout", json=by_hand)).status_code == 200


async def test_a_rollout_by_hand_is_not_replaced_and_a_driven_one_is(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await admin.post("/adapters/support/promote", json={"version": 0})
    for fill in (1, 2, 3):
        await add(admin, registry, tmp_path / str(fill), fill)
        await passed(admin, fill)
    await admin.post("/adapters/support/rollout", json={"version": 1, "steps": [0.5]})
    status, message = await told(await admin.post(PUBLISH, json={"version": 2}))
    assert (status, "support@1 is being rolled out by hand" in message) == (409, True)
    await admin.post("/adapters/support/rollback")
    for number in (2, 3):
        assert (await admin.post(PUBLISH, json={"version": number})).json()["candidate"] == number


async def test_a_canary_needs_answers_that_are_kept(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    settings: GatewaySettings = app.state.serving.settings
    feedback = settings.feedback.model_copy(update={"capture": {"support": "none"}})
    app.state.serving.settings = settings.model_copy(update={"feedback": feedback})
    await admin.post("/adapters/support/promote", json={"version": 0})
    await add(admin, registry, tmp_path, 1)
    await passed(admin, 1)
    status, message = await told(await admin.post(PUBLISH, json={"version": 1}))
    assert (status, "No answers of 'support' are kept" in message) == (409, True)


async def test_the_base_takes_a_share_too(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await add(admin, registry, tmp_path, 1)
    await admin.post("/adapters/support/promote", json={"version": 1})
    begun = (
        await admin.post("/adapters/support/rollout", json={"version": 0, "steps": [0.5]})
    ).json()
    assert (begun["stable"], begun["candidate"]) == (1, 0)
    moved = (await admin.post("/adapters/support/promote", json={"version": 0})).json()
    assert (moved["stable"], moved["previous"], moved["candidate"]) == (0, 1, None)
    retired = await admin.post("/adapters/support/versions/0/retire")
    assert retired.status_code == 404
    for alias in ("base", "Not A Name"):
        answer = await admin.post(f"/adapters/{alias}/promote", json={"version": 0})
        assert answer.status_code in (404, 409)


async def test_the_verdict_is_on_the_base_that_the_version_was_made_for(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    qwen = BaseModelSettings(name="qwen", model="org/Qwen2.5-7B")
    several = Registry(registry._engine, registry.storage, base_model=BASE, bases=[qwen])
    several.prepare()
    app.state.serving.registry = several
    folder = write_adapter(tmp_path / "a", said=config(base_model_name_or_path="Qwen2.5-7B"))
    version = several.register("default", "support", folder)
    several.set_state(version.id, VersionState.CANDIDATE, "verified", "controller")
    await passed(admin, 1)
    for stable in (None, 0):
        if stable == 0:
            await admin.post("/adapters/support/promote", json={"version": 0})
        status, message = await told(await admin.post(PUBLISH, json={"version": 1}))
        assert (status, "no gate report on support@1 against qwen" in message) == (409, True)
        assert (await admin.get("/adapters/support")).json()["base"] == "qwen"
    await passed(admin, 1, "qwen")
    assert (await admin.post(PUBLISH, json={"version": 1})).json()["candidate"] == 1
