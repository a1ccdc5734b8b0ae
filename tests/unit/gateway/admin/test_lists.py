"""Lists that grow: read page by page, nothing twice and nothing left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert

from feedback.db import writing
from feedback.jobs import Jobs
from feedback.tables import DATASETS
from gateway.registry.service import Registry

from .conftest import Clients
from .loop import answered, gate

MANIFEST: dict[str, Any] = {
    "rows": 1,
    "new_rows": 1,
    "dropped": {},
    "origins": {},
    "slices": {},
    "conflicts": [],
    "curation": {},
}
Fill = Callable[[FastAPI, httpx.AsyncClient, int], Awaitable[None]]


async def keys(_app: FastAPI, admin: httpx.AsyncClient, number: int) -> None:
    await admin.post("/keys", json={"owner": f"team-{number}"})


async def adapters(_app: FastAPI, admin: httpx.AsyncClient, number: int) -> None:
    answer = await admin.post(f"/adapters/desk-{number}/promote", json={"version": 0})
    assert answer.status_code == 200


async def datasets(
    app: FastAPI, _admin: httpx.AsyncClient, number: int, alias: str = "support"
) -> None:
    values = {"digest": f"{number % 3}{number:063x}", "tenant": "default", "alias": alias}
    # Two of them are of the same time.
    values |= {"manifest": MANIFEST, "created_at": float(number // 2)}
    with writing(app.state.serving.database) as connection:
        connection.execute(insert(DATASETS).values(**values))


async def jobs(app: FastAPI, _admin: httpx.AsyncClient, number: int) -> None:
    clock = lambda _: float(number // 2)  # noqa: E731
    Jobs(app.state.serving.database, clock=clock).add("default", "refresh", f"a{number}", {})


async def gates(_app: FastAPI, admin: httpx.AsyncClient, _number: int) -> None:
    assert (await admin.post("/gates", json=gate("PASS"))).status_code == 201


async def erasures(_app: FastAPI, admin: httpx.AsyncClient, number: int) -> None:
    assert (await admin.post("/erasures", json={"users": [f"u{number}"]})).status_code == 200


async def review(app: FastAPI, _admin: httpx.AsyncClient, number: int) -> None:
    answered(app, number)


NAMES = {
    keys: "id",
    adapters: "alias",
    datasets: "digest",
    jobs: "id",
    gates: "id",
    erasures: "id",
    review: "id",
}


@pytest.mark.parametrize(
    ("fill", "name"), NAMES.items(), ids=lambda value: getattr(value, "__name__", value)
)
async def test_pages_make_up_the_list(
    app: FastAPI, admin: httpx.AsyncClient, fill: Fill, name: str
) -> None:
    path = f"/{fill.__name__}"
    for number in range(5):
        await fill(app, admin, number)
    whole = (await admin.get(path)).json()
    ids = [one[name] for one in whole["data"]]
    assert len(ids) >= 5
    assert (whole["object"], whole["has_more"]) == ("list", False)
    assert (whole["first_id"], whole["last_id"]) == (ids[0], ids[-1])
    read: list[Any] = []
    asked: dict[str, Any] = {"limit": 2}
    for _ in ids:
        page = (await admin.get(path, params=asked)).json()
        assert len(page["data"]) <= 2
        read += page["data"]
        if not page["has_more"]:
            break
        asked["after"] = page["last_id"]
    assert read == whole["data"]


@pytest.mark.parametrize("fill", NAMES, ids=lambda fill: fill.__name__)
async def test_pages_that_cannot_be(app: FastAPI, admin: httpx.AsyncClient, fill: Fill) -> None:
    path = f"/{fill.__name__}"
    wrong = [("limit", "0"), ("limit", "1001"), ("limit", "all"), ("after", "a\0b")]
    if fill in (datasets, jobs, erasures):
        wrong.append(("after", "0" * 64))
    for name, value in wrong:
        answer = await admin.get(path, params={name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert fill not in (datasets, jobs, erasures) or "last_id" in answer.text


async def test_an_empty_list_has_no_ids(admin: httpx.AsyncClient) -> None:
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await admin.get("/jobs")).json() == empty


async def test_what_is_added_meanwhile_moves_nothing_from_page_to_page(
    app: FastAPI, admin: httpx.AsyncClient
) -> None:
    for number in range(4):
        await jobs(app, admin, number)
    first = (await admin.get("/jobs", params={"limit": 2})).json()
    await jobs(app, admin, 9)
    # It is of another state now: what comes after it stays the same.
    await admin.post(f"/jobs/{first['last_id']}/cancel", json={"reason": "x"})
    asked = {"limit": 2, "after": first["last_id"], "state": "queued"}
    rest = (await admin.get("/jobs", params=asked)).json()
    told = [job["alias"] for job in (*first["data"], *rest["data"])]
    assert sorted(told) == ["a0", "a1", "a2", "a3"]


async def test_nothing_comes_after_what_is_another_tenants(app: FastAPI, clients: Clients) -> None:
    mine, theirs = await clients(), await clients(tenant="other")
    await jobs(app, mine, 1)
    await datasets(app, mine, 1)
    for path in ("/jobs", "/datasets"):
        asked = {"after": (await mine.get(path)).json()["last_id"]}
        assert (await theirs.get(path, params=asked)).status_code == 400
        assert (await mine.get(path, params=asked)).json()["data"] == []


async def test_pages_of_a_key_for_some_aliases_are_full(app: FastAPI, clients: Clients) -> None:
    admin, narrow = await clients(), await clients(aliases=["support", "desk-1", "desk-3"])
    for number in range(4):
        await adapters(app, admin, number)
        await datasets(app, admin, number, "support" if number % 2 else "other")
    page = (await narrow.get("/adapters", params={"limit": 1, "after": "desk-1"})).json()
    assert ([one["alias"] for one in page["data"]], page["has_more"]) == (["desk-3"], False)
    found = (await narrow.get("/datasets", params={"limit": 1})).json()
    assert (len(found["data"]), found["has_more"]) == (1, True)
    hidden = (await admin.get("/datasets", params={"alias": "other"})).json()["last_id"]
    assert (await narrow.get("/datasets", params={"after": hidden})).status_code == 400


async def test_keys_are_found_by_owner_role_and_state(
    admin: httpx.AsyncClient, registry: Registry
) -> None:
    await admin.post("/keys", json={"owner": "shop", "role": "reviewer"})
    gone = (await admin.post("/keys", json={"owner": "shop"})).json()["id"]
    await admin.delete(f"/keys/{gone}")
    registry.create_key(tenant="default", owner="shop", role="app", expires_at=1.0)

    async def found(**asked: str) -> list[int]:
        return [key["id"] for key in (await admin.get("/keys", params=asked)).json()["data"]]

    assert await found() == [1, 2, 3, 4]
    assert await found(owner="shop") == [2, 3, 4]
    assert await found(owner="sho") == []
    assert await found(role="app") == [3, 4]
    assert await found(state="valid") == [1, 2]
    assert await found(state="revoked", owner="shop") == [3]
    assert await found(state="expired") == [4]
    assert (await admin.get("/keys", params={"state": "lost"})).status_code == 400


async def test_aliases_are_found_by_how_they_begin(app: FastAPI, admin: httpx.AsyncClient) -> None:
    for number in (1, 10, 2):
        await adapters(app, admin, number)
    found = (await admin.get("/adapters", params={"prefix": "desk-1"})).json()
    assert [(one["alias"], one["stable"]) for one in found["data"]] == [
        ("desk-1", 0),
        ("desk-10", 0),
    ]
    assert (await admin.get("/adapters", params={"prefix": "_"})).json()["data"] == []
    assert (await admin.get("/adapters", params={"prefix": "%"})).status_code == 400
