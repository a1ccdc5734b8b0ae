"""Imports, golden sets and data sets over the admin API: roles, tenants, bad input."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from feedback.errors import FinderAway
from gateway.admin import data as routes

from .conftest import Clients
from .loop import ROWS, answered, jsonl

ITEM = {"id": "g1", "instruction": "Answer.", "input": "golden", "output": "a"}
DIGEST = "a" * 64


def file(content: bytes = jsonl(ROWS), name: str = "rows.jsonl") -> dict[str, Any]:
    return {"file": (name, content)}


@pytest.mark.parametrize("role", ["app", "reviewer", "trainer", "admin"])
async def test_who_may_do_what(clients: Clients, admin: httpx.AsyncClient, role: str) -> None:
    await admin.post("/imports/support", files=file())
    await admin.put("/golden/support", content=jsonl([ITEM]))
    made = (await admin.post("/datasets", json={"alias": "support"})).json()
    client = await clients(role)
    writes = [
        await client.post("/imports/support", files=file()),
        await client.put("/golden/support", content=jsonl([ITEM])),
        await client.post("/datasets", json={"alias": "support"}),
    ]
    paths = ("/golden/support", "/datasets", f"/datasets/{made['digest']}")
    reads = [await client.get(path) for path in (*paths, f"{paths[-1]}/rows")]
    may_write, may_read = role in ("trainer", "admin"), role != "app"
    assert {answer.status_code for answer in writes} == ({200} if may_write else {403})
    assert {answer.status_code for answer in reads} == ({200} if may_read else {403})


async def test_nothing_is_seen_of_another_tenant(app: FastAPI, clients: Clients) -> None:
    mine, theirs = await clients(), await clients(tenant="other")
    response_id = answered(app, 1)
    await mine.post("/imports/support", files=file())
    await mine.put("/golden/support", content=jsonl([ITEM]))
    digest = (await mine.post("/datasets", json={"alias": "support"})).json()["digest"]
    for path in ("/golden/support", f"/datasets/{digest}", f"/datasets/{digest}/rows"):
        assert (await theirs.get(path)).status_code == 404
    assert (await theirs.get(f"/lineage/{response_id}")).status_code == 404
    assert (await theirs.get("/datasets")).json()["data"] == []
    assert (await theirs.post("/datasets", json={"alias": "support"})).status_code == 404
    await theirs.post("/imports/support", files=file())
    other = (await theirs.post("/datasets", json={"alias": "support"})).json()
    assert (other["rows"], other["digest"] != digest) == (5, True)


async def test_a_key_for_some_aliases_sees_no_others(app: FastAPI, clients: Clients) -> None:
    response_id = answered(app, 1)
    all_of_it, narrow = await clients(), await clients(aliases=["facts"])
    await all_of_it.post("/imports/support", files=file())
    digest = (await all_of_it.post("/datasets", json={"alias": "support"})).json()["digest"]
    refused = [
        await narrow.post("/imports/support", files=file()),
        await narrow.put("/golden/support", content=jsonl([ITEM])),
        await narrow.post("/datasets", json={"alias": "support"}),
        await narrow.get("/datasets?alias=support"),
        await narrow.get(f"/datasets/{digest}"),
        await narrow.get(f"/datasets/{digest}/rows"),
        await narrow.get(f"/lineage/{response_id}"),
    ]
    assert {answer.status_code for answer in refused} == {404}
    assert (await narrow.get("/datasets")).json()["data"] == []


async def test_names_that_no_alias_has_do_not_reach_the_database(admin: httpx.AsyncClient) -> None:
    refused = [
        await admin.post("/imports/a%00b", files=file()),
        await admin.put("/golden/a%00b", content=jsonl([ITEM])),
        await admin.get("/golden/a%00b"),
        await admin.get("/datasets?alias=a%00b"),
        await admin.post("/datasets", json={"alias": "a\0b"}),
    ]
    assert {answer.status_code for answer in refused} == {404}
    for path in ("/lineage/a%00b", "/datasets/x", f"/datasets/{DIGEST[1:]}g/rows"):
        assert (await admin.get(path)).status_code == 400  # as the gateway puts a 422


async def test_imported_rows_are_scrubbed(app: FastAPI, admin: httpx.AsyncClient) -> None:
    row = {"instruction": "Answer.", "input": "I am ann@here.com", "output": "Hello."}
    tried = await admin.post("/imports/support", files=file(jsonl([row])), data={"dry_run": "true"})
    assert (tried.json()["imported"], tried.json()["scrubbed"]) == (1, 0)
    app.state.serving.finder.error = FinderAway()
    assert (await admin.post("/imports/support", files=file(jsonl([row])))).status_code == 503
    app.state.serving.finder.error = None
    done = (await admin.post("/imports/support", files=file(jsonl([row])))).json()
    assert (done["imported"], done["scrubbed"]) == (1, 1)
    digest = (await admin.post("/datasets", json={"alias": "support"})).json()["digest"]
    text = (await admin.get(f"/datasets/{digest}/rows")).text
    assert "I am " in text
    assert "ann@here.com" not in text


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"json": {}}, "content-type"),
        ({"files": {"rows": ("rows.csv", b"")}}, "file"),
        ({"files": file(), "data": {"dry_run": "perhaps"}}, "dry_run"),
        ({"files": file(), "data": {"mapping": "[" * 5000}}, "mapping"),
        ({"files": file(b"a,b\n1,2\n", "rows.csv")}, "mapping"),
        ({"files": file(b"", "rows.csv")}, "file"),
    ],
)
async def test_forms_that_cannot_be_used(
    admin: httpx.AsyncClient, request_: dict[str, Any], param: str
) -> None:
    answer = await admin.post("/imports/support", **request_)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_hostile_lines_are_named(admin: httpx.AsyncClient) -> None:
    lines = [b"[" * 5000, b"\xff", b'{"a": "\\ud800"}', json.dumps(ROWS[0]).encode()]
    told = (await admin.post("/imports/support", files=file(b"\n".join(lines)))).json()
    assert (told["read"], told["imported"]) == (4, 1)
    assert told["dropped"] == {"not_json": 2, "not_utf8": 1}
    assert [one["line"] for one in told["examples"]] == [1, 2, 3]


async def test_files_are_bounded(
    admin: httpx.AsyncClient, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_BYTES", 1000)
    long = jsonl(ROWS * 10)
    refused = [
        await admin.post("/imports/support", files=file(long)),
        await admin.put("/golden/support", content=long),
    ]
    assert {answer.status_code for answer in refused} == {413}
    # The body of somebody who may not send one is not read.
    stranger = clients.bare("sk-unknown")
    assert (await stranger.post("/imports/support", files=file(long))).status_code == 401
    assert (await stranger.put("/golden/support", content=long)).status_code == 401


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "g1"', "line 2 is not JSON"),
        (b"\xff", "line 2 is not UTF-8"),
        (b"[" * 5000, "line 2 is not JSON"),
        (json.dumps({**ITEM, "input": "a\0"}).encode(), "line 2: input"),
        (json.dumps({**ITEM, "valid_from": "soon"}).encode(), "line 2: valid_from"),
        (b'{"id":"g","instruction":"i","input":"a","output":"b","valid_from":1e999}', "line 2"),
        (
            json.dumps({**ITEM, "valid_from": "2026-02-01", "valid_until": "2026-01-01"}).encode(),
            "valid_until must be later",
        ),
        (json.dumps(ITEM).encode(), "'g1' occurs twice"),
        (json.dumps({**ITEM, "id": "g2"}).encode(), "'g1' and 'g2' ask the same"),
    ],
)
async def test_golden_items_that_cannot_be_used(
    admin: httpx.AsyncClient, line: bytes, message: str
) -> None:
    answer = await admin.put("/golden/support", content=jsonl([ITEM]) + line)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert (await admin.get("/golden/support")).status_code == 404


async def test_golden_items_have_their_time(admin: httpx.AsyncClient) -> None:
    late = {**ITEM, "id": "late", "input": "b", "valid_from": "2999-01-01T00:00:00+02:00"}
    over = {**ITEM, "id": "over", "input": "c", "valid_until": 5}
    content = b"\xef\xbb\xbf" + jsonl([ITEM, late, over]).replace(b"\n", b"\r\n")
    put = (await admin.put("/golden/support", content=content)).json()
    assert put["items"] == 3
    now = await admin.get("/golden/support")
    everything = await admin.get("/golden/support?all=true")
    assert [len(answer.text.splitlines()) for answer in (now, everything)] == [1, 3]
    assert now.headers["x-golden-digest"] == put["digest"]
    assert (await admin.put("/golden/support", content=content)).json() == put
    empty = await admin.put("/golden/support", content=b"\n")
    assert "at least one" in empty.json()["error"]["message"]


async def test_an_empty_data_set_says_why(admin: httpx.AsyncClient) -> None:
    await admin.post("/imports/support", files=file())
    items = [{**row, "id": f"g{n}"} for n, row in enumerate(ROWS)]
    await admin.put("/golden/support", content=jsonl(items))
    answer = await admin.post("/datasets", json={"alias": "support"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "alias")
    assert "left out: 5 golden" in answer.json()["error"]["message"]


async def test_data_sets_tell_what_they_follow_from(admin: httpx.AsyncClient) -> None:
    golden = (await admin.put("/golden/support", content=jsonl([ITEM]))).json()
    await admin.post("/imports/support", files=file(jsonl(ROWS * 60)))
    made = (await admin.post("/datasets", json={"alias": "support"})).json()
    assert (made["golden"], made["new_rows"], made["slices"]) == (golden["digest"], 5, {"s": 5})
    assert made["curation"]["threshold"] == 0.9
    rows = (await admin.get(f"/datasets/{made['digest']}/rows")).text.splitlines()
    names = {"id", "instruction", "input", "output", "slice", "origin", "lineage"}
    assert [set(json.loads(row)) for row in rows] == [names] * 5
    (listed,) = (await admin.get("/datasets?alias=support")).json()["data"]
    assert listed == (await admin.get(f"/datasets/{made['digest']}")).json() == made
