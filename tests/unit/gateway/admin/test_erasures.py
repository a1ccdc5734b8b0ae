"""Erasures over the admin API: whose, by whom, and which versions were trained on them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.registry.service import Registry
from tests.unit.gateway.registry.adapter_files import write_adapter

from .conftest import Clients
from .loop import answered, flag


def by(app: FastAPI, number: int, user: str) -> str:
    """An answer to a user in the store, flagged."""
    pseudonym = app.state.serving.scrubber.pseudonym("default", user)
    response_id = answered(app, number, session=pseudonym, started=1.0)
    flag(app, response_id)
    return response_id


async def trained(app: FastAPI, admin: httpx.AsyncClient, registry: Registry, to: Path) -> str:
    """Alice's correction in a data set, a version trained on that, and one merged of this."""
    by(app, 1, "alice")
    (item,) = (await admin.get("/review")).json()["data"]
    wrong = {"verdict": "wrong", "correction": "Something."}
    assert (await admin.post(f"/review/{item['id']}", json=wrong)).status_code == 200
    digest = str((await admin.post("/datasets", json={"alias": "support"})).json()["digest"])
    manifest = {"dataset": {"sha256": digest, "rows": 1}}
    source = write_adapter(to / "a", fill=1, manifest=manifest)
    first = registry.register("default", "support", source)
    merged = {"merged_from": [{"model": "support@1", "sha256": first.sha256, "weight": 1.0}]}
    registry.register("default", "facts", write_adapter(to / "b", fill=2, manifest=merged))
    other = {"dataset": {"sha256": "0" * 64}, "merged_from": "nothing that one can read"}
    registry.register("default", "facts", write_adapter(to / "c", fill=3, manifest=other))
    return digest


async def test_by_user_with_the_versions_that_were_trained_on_them(
    app: FastAPI, admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    digest = await trained(app, admin, registry, tmp_path)
    asked = {"users": ["alice", "nobody"], "reference": "REQ-7"}
    tried = (await admin.post("/erasures", json={**asked, "dry_run": True})).json()
    assert (await admin.get("/erasures")).json()["data"] == []
    done = (await admin.post("/erasures", json=asked)).json()
    again = (await admin.post("/erasures", json=asked)).json()
    assert (tried["id"], tried["dry_run"], done["dry_run"]) == (None, True, False)
    assert tried["counts"] == done["counts"]
    assert {name: n for name, n in done["counts"].items() if n} == {
        "answers": 1,
        "feedback": 1,
        "review_items": 1,
        "reviews": 1,
        "corrections": 1,
        "dataset_rows": 1,
    }
    for told in (tried, done, again):
        assert [one["digest"] for one in told["datasets"]] == [digest]
        assert [(one["model"], one["state"], one["merged"]) for one in told["versions"]] == [
            ("facts@1", "registered", True),
            ("support@1", "registered", False),
        ]
    rows = await admin.get(f"/datasets/{digest}/rows")
    assert (rows.json()["erased"], "output" in rows.json()) == (True, False)
    assert (await admin.get(f"/datasets/{digest}")).json()["erased"] == 1


async def test_the_record_of_it(app: FastAPI, admin: httpx.AsyncClient) -> None:
    response_id = by(app, 1, "alice")
    asked = {"response_ids": [response_id], "reference": "REQ-7"}
    done = (await admin.post("/erasures", json=asked)).json()
    (line,) = (await admin.get("/erasures")).json()["data"]
    assert (line["id"], line["reference"]) == (done["id"], "REQ-7")
    assert line["subjects"] == {"responses": [response_id]}
    assert line["counts"]["answers"] == 1
    assert line["finished_at"] >= line["begun_at"]
    assert line["actor"].startswith("admin-owner")


async def test_only_of_the_own_tenant_and_all_of_it(app: FastAPI, clients: Clients) -> None:
    response_id = by(app, 1, "alice")
    asked = {"users": ["alice"], "response_ids": [response_id], "keys": [1]}
    theirs, narrow = await clients(tenant="other"), await clients(aliases=["support"])
    told = (await theirs.post("/erasures", json=asked)).json()
    assert not any(told["counts"].values())
    assert (await narrow.post("/erasures", json=asked)).status_code == 403
    assert (await narrow.get("/erasures")).status_code == 403
    assert (await (await clients()).post("/erasures", json=asked)).json()["counts"]["answers"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"users": [""]},
        {"response_ids": ["a b"]},
        {"keys": [0]},
        {"tickets": ["1"]},
        {"users": ["alice"], "reference": "Alice Keller"},
        {"tenant": "other"},
    ],
)
async def test_what_names_nobody_is_refused(admin: httpx.AsyncClient, body: object) -> None:
    assert (await admin.post("/erasures", json=body)).status_code == 400
    assert (await admin.get("/erasures")).json()["data"] == []
