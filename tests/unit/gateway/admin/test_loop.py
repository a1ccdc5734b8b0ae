"""Review, data and jobs over the admin API."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from feedback.errors import FinderAway

from .conftest import Clients
from .loop import ROWS, answered, jsonl


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
