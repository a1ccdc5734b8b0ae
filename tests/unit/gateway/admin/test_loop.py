"""Review, data, jobs and publishing over the admin API."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert

from feedback.db import writing
from feedback.errors import FinderAway
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS
from gateway.controller.canary import CanaryDriver
from gateway.registry.service import Registry
from gateway.settings import RolloutSettings

from .conftest import Clients
from .test_adapters import add

ROLLOUT = RolloutSettings()
ROWS = [
    {"instruction": "Answer.", "input": f"question {n}", "output": f"answer {n}", "slice": "s"}
    for n in range(5)
]


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def answered(app: FastAPI, number: int, **changes: object) -> str:
    """Put a capture into the store, with a review item."""
    response_id = f"chatcmpl-{number:048x}"
    values = {
        "id": response_id,
        "tenant": "default",
        "alias": "support",
        "version": 1,
        "version_id": 2,
        "key_id": 1,
        "worker": "w",
        "route": "/v1/chat/completions",
        "messages": [{"role": "user", "content": "What?"}],
        "parameters": {},
        "choices": [{"index": 0, "content": "Nothing."}],
        "usage": {},
        "outcome": "ok",
        "audit": [],
        "started": 4e9,
        "duration": 1.0,
        "reasons": ["flagged"],
        "inclusion_probability": 1.0,
        "keep_until": 5e9,
        "request_id": "r",
        "scrubber": "s",
        **changes,
    }
    item = {
        "tenant": "default",
        "response_id": response_id,
        "alias": "support",
        "version": 1,
        "reason": "flagged",
        "priority": 3.0,
        "status": "open",
        "created_at": 1.0,
        "inclusion_probability": 1.0,
    }
    with writing(app.state.serving.database) as connection:
        connection.execute(insert(CAPTURES).values(**values))
        connection.execute(insert(REVIEW_ITEMS).values(**item))
    return response_id


def flag(app: FastAPI, response_id: str) -> None:
    """Say of an answer that it is bad."""
    values = {
        "id": f"fb-{response_id}",
        "tenant": "default",
        "response_id": response_id,
        "key_id": 1,
        "rating": "down",
        "labels": [],
        "body_sha256": "0",
        "status": "linked",
        "replied": "linked",
        "created_at": 1.0,
    }
    with writing(app.state.serving.database) as connection:
        connection.execute(insert(FEEDBACK).values(**values))


async def test_from_review_to_a_row(
    app: FastAPI, clients: Clients, admin: httpx.AsyncClient
) -> None:
    response_id = answered(app, 1)
    reviewer = await clients("reviewer")
    (item,) = (await reviewer.get("/review")).json()["data"]
    assert (item["response_id"], item["model"], item["status"]) == (
        response_id,
        "support@1",
        "open",
    )
    assert (await reviewer.post(f"/review/{item['id']}/claim")).json()["status"] == "claimed"
    other = await (await clients("admin")).post(f"/review/{item['id']}/claim")
    assert other.status_code == 409
    same = {"verdict": "wrong", "correction": "Nothing. "}
    refused = await reviewer.post(f"/review/{item['id']}", json=same)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "correction")
    wrong = {"verdict": "wrong", "correction": "Everything.", "scores": {"correctness": 0}}
    done = await reviewer.post(f"/review/{item['id']}", json=wrong)
    assert (done.status_code, done.json()["status"]) == (200, "done")
    assert (await reviewer.get("/review")).json()["data"] == []

    made = await admin.post("/datasets", json={"alias": "support"})
    assert (made.status_code, made.json()["rows"]) == (201, 1)
    assert (await admin.post("/datasets", json={"alias": "support"})).status_code == 200
    rows = await admin.get(f"/datasets/{made.json()['digest']}/rows")
    row = json.loads(rows.text)
    assert (row["output"], row["lineage"]["response_id"]) == ("Everything.", response_id)
    told = (await admin.get(f"/lineage/{response_id}")).json()
    assert told["rows"][0]["dataset"] == made.json()["digest"]


async def test_a_correction_is_scrubbed_and_kept_surrogates_stay(
    app: FastAPI, clients: Clients
) -> None:
    surrogate = "Write to eve.moss@example.org."
    answered(app, 1, choices=[{"index": 0, "content": surrogate}])
    reviewer = await clients("reviewer")
    (item,) = (await reviewer.get("/review")).json()["data"]
    wrong = {"verdict": "wrong", "correction": f"{surrogate} Or to ann@here.com."}
    app.state.serving.finder.error = FinderAway()
    assert (await reviewer.post(f"/review/{item['id']}", json=wrong)).status_code == 503
    app.state.serving.finder.error = None
    done = (await reviewer.post(f"/review/{item['id']}", json=wrong)).json()
    (review,) = done["reviews"]
    assert review["correction"].startswith(f"{surrogate} Or to ")
    assert "ann@here.com" not in review["correction"]
    again = await reviewer.post(f"/review/{item['id']}", json=wrong)
    assert (again.status_code, len(again.json()["reviews"])) == (200, 1)


async def test_an_import_with_a_mapping(admin: httpx.AsyncClient) -> None:
    csv = "q,a\nWhat?,This.\nWhy?,\n"
    mapping = {"input": "q", "output": "a", "constants": {"instruction": "Answer."}}
    form = {"mapping": json.dumps(mapping), "dry_run": "true"}
    files = {"file": ("rows.csv", csv.encode())}
    tried = (await admin.post("/imports/support", files=files, data=form)).json()
    assert (tried["read"], tried["imported"], tried["dropped"]) == (2, 1, {"no_output": 1})
    assert "'a' is missing or empty" in tried["examples"][0]["message"]
    assert (await admin.get("/datasets")).json()["data"] == []
    form["dry_run"] = "false"
    assert (await admin.post("/imports/support", files=files, data=form)).json()["imported"] == 1
    made = await admin.post("/datasets", json={"alias": "support"})
    assert made.json()["origins"] == {"import": 1}


@pytest.mark.parametrize(
    ("name", "content", "mapping", "message"),
    [
        ("rows.txt", b"", None, "neither .jsonl nor .csv"),
        ("rows.csv", b"a\xff\n", None, "Line 1 is not UTF-8"),
        ("rows.csv", b"", "{", "not JSON of names"),
        ("rows.csv", b"", '{"answer": "a"}', "The mapping names 'answer'"),
        ("rows.csv", b"", '{"constants": {"x": "a"}}', "The mapping names 'x'"),
    ],
)
async def test_a_file_that_cannot_be_used(
    admin: httpx.AsyncClient, name: str, content: bytes, mapping: str | None, message: str
) -> None:
    form = {"mapping": mapping} if mapping else {}
    answer = await admin.post("/imports/support", files={"file": (name, content)}, data=form)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


async def test_golden_sets(admin: httpx.AsyncClient, clients: Clients) -> None:
    items = [{**row, "id": f"g{n}", "valid_from": "2020-01-01"} for n, row in enumerate(ROWS)]
    put = await admin.put("/golden/support", content=jsonl(items))
    assert (put.status_code, put.json()["items"], put.json()["slices"]) == (200, 5, {"s": 5})
    got = await (await clients("trainer")).get("/golden/support")
    assert got.headers["x-golden-digest"] == put.json()["digest"]
    assert [json.loads(line)["id"] for line in got.text.splitlines()] == [f"g{n}" for n in range(5)]
    bad = await admin.put("/golden/support", content=jsonl([{**items[0], "output": ""}]))
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "output")
    assert "line 1: output" in bad.json()["error"]["message"]
    assert (await admin.get("/golden/other")).status_code == 404
    imported = await admin.post("/imports/support", files={"file": ("r.jsonl", jsonl(ROWS))})
    assert imported.json()["dropped"] == {"golden": 5}


async def test_a_refresh_is_a_job(admin: httpx.AsyncClient, clients: Clients) -> None:
    unknown = await admin.post("/refreshes", json={"alias": "nobody"})
    assert unknown.status_code == 404
    assert "import rows first" in unknown.json()["error"]["message"]
    await admin.post("/imports/support", files={"file": ("r.jsonl", jsonl(ROWS))})
    job = (await admin.post("/refreshes", json={"alias": "support"})).json()
    again = await admin.post("/refreshes", json={"alias": "support"})
    assert (again.status_code, job["id"] in again.json()["error"]["message"]) == (409, True)
    trainer = await clients("trainer")
    claim = {"holder": "t1"}
    assert (await trainer.post("/jobs/claim", json=claim)).json()["state"] == "running"
    assert (await trainer.post("/jobs/claim", json={"holder": "t2"})).status_code == 204
    path = f"/jobs/{job['id']}"
    await trainer.post(f"{path}/stages", json={**claim, "stage": "train", "made": {"steps": 1}})
    late = await trainer.post(f"{path}/heartbeat", json={"holder": "t2"})
    assert late.status_code == 409
    done = await trainer.post(f"{path}/finish", json={**claim, "state": "done", "result": {}})
    assert done.json()["stages"] == {"train": {"steps": 1}}
    listed = (await trainer.get("/jobs", params={"alias": "support"})).json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]


async def test_evaluations_are_kept(admin: httpx.AsyncClient) -> None:
    path = f"/evaluations/{'a' * 64}"
    assert (await admin.get(path)).status_code == 404
    assert (await admin.put(path, json={"answers": []})).status_code == 200
    assert (await admin.get(path)).json() == {"answers": []}
    for body in (b"[1]", b"{", b"[" * 5000):
        assert (await admin.put(path, content=body)).status_code == 400


def gate(verdict: str, against: str = "base") -> dict[str, object]:
    return {
        "alias": "support",
        "candidate": "support@1",
        "against": against,
        "verdict": verdict,
        "report": {},
    }


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
    for _ in range(3):
        driver.step()
        for number in range(200, 200 + ROLLOUT.answers):
            answered(app, number + int(1e6 * time.monotonic()), version_id=version.id)
    now = registry.alias("default", "support")
    assert (now.candidate is not None, now.weight) == (True, 0.5)


@pytest.mark.parametrize(
    ("role", "method", "path", "allowed"),
    [
        (role, method, path, role in roles)
        for method, path, roles in (
            ("GET", "/review", ("admin", "reviewer")),
            ("POST", "/review/1/claim", ("admin", "reviewer")),
            ("POST", "/review/1/undo", ("admin", "reviewer")),
            ("GET", "/datasets", ("admin", "trainer", "reviewer")),
            ("GET", "/golden/support", ("admin", "trainer", "reviewer")),
            ("PUT", "/golden/support", ("admin", "trainer")),
            ("POST", "/imports/support", ("admin", "trainer")),
            ("GET", "/jobs", ("admin", "trainer")),
            ("POST", "/jobs/claim", ("admin", "trainer")),
            ("POST", "/refreshes", ("admin", "trainer")),
            ("GET", "/gates", ("admin", "trainer")),
            ("POST", "/adapters/support/publish", ("admin", "trainer")),
            ("POST", "/adapters/support/promote", ("admin",)),
        )
        for role in ("app", "reviewer", "trainer", "admin")
    ],
)
async def test_who_may_do_what(
    clients: Clients, role: str, method: str, path: str, allowed: bool
) -> None:
    answer = await (await clients(role)).request(method, path, json={})
    assert (answer.status_code != 403) is allowed
    assert (await clients.bare().request(method, path, json={})).status_code == 401


async def test_tenants_do_not_meet(
    app: FastAPI, admin: httpx.AsyncClient, clients: Clients
) -> None:
    answered(app, 1)
    await admin.post("/imports/support", files={"file": ("r.jsonl", jsonl(ROWS))})
    made = (await admin.post("/datasets", json={"alias": "support"})).json()
    job = (await admin.post("/refreshes", json={"alias": "support"})).json()
    stranger = await clients("admin", tenant="another")
    assert (await stranger.get("/review")).json()["data"] == []
    for path in (
        "/review/1",
        f"/datasets/{made['digest']}",
        f"/datasets/{made['digest']}/rows",
        f"/jobs/{job['id']}",
        f"/lineage/chatcmpl-{1:048x}",
    ):
        assert (await stranger.get(path)).status_code == 404
    assert (await stranger.post("/jobs/claim", json={"holder": "x"})).status_code == 204


async def test_the_example_business_is_taken_whole(admin: httpx.AsyncClient) -> None:
    """As the demo puts it: the golden set first, then the tickets."""
    acme = Path("deploy/examples/acme/data")
    put = await admin.put("/golden/support", content=(acme / "golden.jsonl").read_bytes())
    assert put.json()["slices"] == {"facts": 60, "triage": 200}
    files = {"file": ("tickets.jsonl", (acme / "train.jsonl").read_bytes(), "application/jsonl")}
    told = (await admin.post("/imports/support", files=files)).json()
    assert (told["read"], told["imported"], told["dropped"]) == (635, 635, {})
    made = (await admin.post("/datasets", json={"alias": "support"})).json()
    assert made["rows"] >= 0.95 * 635
    assert made["slices"].keys() == {"facts", "triage"}
