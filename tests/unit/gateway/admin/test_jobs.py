"""Jobs, gates and evaluations over HTTP: what is refused, and what a key for some aliases sees."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from feedback.jobs import Jobs
from gateway.admin.jobs import MAX_EVALUATION

from .conftest import Clients
from .loop import gate

HOLDER = {"holder": "one"}


@pytest.fixture
def jobs(app: FastAPI) -> Jobs:
    return Jobs(app.state.serving.database)


async def test_every_change_of_anothers_job_is_refused(
    clients: Clients, admin: httpx.AsyncClient, jobs: Jobs
) -> None:
    path = f"/jobs/{jobs.add('default', 'refresh', 'support', {})['id']}"
    trainer = await clients("trainer")
    bodies = {
        "heartbeat": {"stage": "train"},
        "stages": {"stage": "train", "made": {}},
        "finish": {"state": "done"},
        "release": {},
    }

    async def statuses(holder: str) -> set[int]:
        return {
            (await trainer.post(f"{path}/{what}", json={"holder": holder, **body})).status_code
            for what, body in bodies.items()
        }

    assert await statuses("one") == {409}  # it is queued
    assert (await trainer.post("/jobs/claim", json=HOLDER)).status_code == 200
    assert await statuses("two") == {409}
    told = (await trainer.post(f"{path}/heartbeat", json={**HOLDER, "stage": "train"})).json()
    assert (told["stage"], told["lease_holder"]) == ("train", "one")
    assert told["lease_until"] - told["updated_at"] == pytest.approx(30)
    cancelled = await admin.post(f"{path}/cancel", json={"reason": "wrong data"})
    assert (cancelled.json()["state"], cancelled.json()["reason"]) == ("cancelled", "wrong data")
    assert await statuses("one") == {409}
    assert (await admin.post(f"{path}/cancel", json={})).status_code == 409


async def test_a_job_ends_however_long_its_trouble_is(clients: Clients, jobs: Jobs) -> None:
    path = f"/jobs/{jobs.add('default', 'refresh', 'support', {})['id']}"
    trainer = await clients("trainer")
    await trainer.post("/jobs/claim", json=HOLDER)
    body = {**HOLDER, "state": "failed", "reason": "line\n\0" + "x" * 20_000}
    ended = await trainer.post(f"{path}/finish", json=body)
    assert (ended.status_code, len(ended.json()["reason"])) == (200, 10_000)
    assert "\0" not in ended.json()["reason"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/jobs/claim", {}),
        ("POST", "/jobs/claim", {"holder": ""}),
        ("POST", "/jobs/claim", {"holder": "a\0"}),
        ("POST", "/jobs/claim", {"holder": "a", "kinds": []}),
        ("POST", "/jobs/claim", {"holder": "a", "kinds": ["\0"]}),
        ("POST", "/jobs/claim", {"holder": "a", "job_id": "\0"}),
        ("POST", "/jobs/job-1/finish", {"holder": "a", "state": "running"}),
        ("GET", "/jobs/a%00", None),
        ("GET", "/jobs?alias=%00", None),
        ("GET", "/jobs?state=sleeping", None),
        ("GET", "/jobs?limit=0", None),
        ("GET", "/gates?alias=%00", None),
        ("GET", "/gates/x", None),
        ("POST", "/gates", gate("MAYBE")),
        ("POST", "/gates", {**gate("PASS"), "job_id": "\0"}),
        ("GET", "/evaluations/short", None),
        ("GET", f"/evaluations/{'A' * 64}", None),
        ("POST", "/refreshes", {}),
    ],
)
async def test_what_cannot_be_meant_never_reaches_the_database(
    admin: httpx.AsyncClient, method: str, path: str, body: dict[str, object] | None
) -> None:
    answer = await admin.request(method, path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_key_for_some_aliases_sees_and_takes_their_jobs_only(
    clients: Clients, admin: httpx.AsyncClient, jobs: Jobs
) -> None:
    other = jobs.add("default", "refresh", "other", {})["id"]
    report = {**gate("PASS"), "alias": "other", "candidate": "other@1"}
    hidden = (await admin.post("/gates", json=report)).json()["id"]
    trainer = await clients("trainer", aliases=["support"])
    assert (await trainer.post("/jobs/claim", json=HOLDER)).status_code == 204
    for method, path in (
        ("GET", f"/jobs/{other}"),
        ("POST", f"/jobs/{other}/cancel"),
        ("POST", f"/jobs/{other}/heartbeat"),
        ("GET", f"/gates/{hidden}"),
    ):
        answer = await trainer.request(method, path, json=HOLDER if "beat" in path else {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (await trainer.get("/jobs")).json()["data"] == []
    assert (await trainer.get("/gates")).json()["data"] == []
    assert (await trainer.post("/refreshes", json={"alias": "other"})).status_code == 404
    assert (await trainer.post("/gates", json=report)).status_code == 404
    mine = jobs.add("default", "refresh", "support", {})["id"]
    assert (await trainer.post("/jobs/claim", json=HOLDER)).json()["id"] == mine
    assert [job["id"] for job in (await trainer.get("/jobs")).json()["data"]] == [mine]


async def test_an_evaluation_has_a_size_and_a_first_writer(
    admin: httpx.AsyncClient, clients: Clients
) -> None:
    path = f"/evaluations/{'b' * 64}"
    large = b'{"a": "' + b"x" * MAX_EVALUATION + b'"}'
    assert (await admin.put(path, content=large)).status_code == 413
    for body in ({"n": 1}, {"n": 2}):
        assert (await admin.put(path, json=body)).status_code == 200
    assert (await admin.get(path)).json() == {"n": 1}
    assert (await (await clients("admin", tenant="another")).get(path)).status_code == 404
