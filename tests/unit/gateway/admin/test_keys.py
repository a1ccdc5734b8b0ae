"""Keys over the admin API."""

from __future__ import annotations

import time

import httpx
import pytest

from gateway.registry.service import Registry

from .conftest import Clients


async def test_a_keys_life(admin: httpx.AsyncClient, clients: Clients, registry: Registry) -> None:
    answer = await admin.post(
        "/keys", json={"owner": "trainer box", "role": "trainer", "aliases": ["support"]}
    )
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert made["key"].startswith("sk-al-")
    assert (made["role"], made["aliases"], made["purpose"]) == ("trainer", ["support"], "serve")
    theirs = clients.bare(made["key"])
    assert (await theirs.get("/workers")).status_code == 200
    listed = (await admin.get("/keys")).json()["data"]
    assert [key["owner"] for key in listed] == ["admin-owner", "trainer box"]
    assert made["key"] not in str(listed)
    assert made["key"].startswith(listed[1]["prefix"])
    gone = await admin.delete(f"/keys/{made['id']}")
    assert gone.status_code == 200
    assert gone.json()["revoked_at"] is not None
    assert (await theirs.get("/workers")).status_code == 401
    assert registry.snapshot().keys.keys() != set()


async def test_keys_stay_in_their_tenant(clients: Clients, registry: Registry) -> None:
    mine, theirs = await clients(tenant="a"), await clients(tenant="b")
    made = (await mine.post("/keys", json={"owner": "x"})).json()
    assert [k.key.tenant for k in registry.list_keys("a")] == ["a", "a"]
    answer = await theirs.delete(f"/keys/{made['id']}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "There is no such key.")
    assert len((await theirs.get("/keys")).json()["data"]) == 1


async def test_a_key_does_not_revoke_itself(admin: httpx.AsyncClient) -> None:
    (own,) = (await admin.get("/keys")).json()["data"]
    answer = await admin.delete(f"/keys/{own['id']}")
    assert answer.status_code == 409


async def test_a_narrow_admin_makes_no_wider_key(clients: Clients) -> None:
    narrow = await clients(aliases=["support"])
    for answer in (await narrow.get("/keys"), await narrow.post("/keys", json={"owner": "x"})):
        assert answer.status_code == 403


@pytest.mark.parametrize("role", ["app", "reviewer", "trainer"])
async def test_only_admins_manage_keys(clients: Clients, role: str) -> None:
    client = await clients(role)
    assert (await client.get("/keys")).status_code == 403
    assert (await client.post("/keys", json={"owner": "x"})).status_code == 403
    assert (await client.delete("/keys/1")).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"owner": ""},
        {"owner": "a\nb"},
        {"owner": "a", "role": "root"},
        {"owner": "a", "purpose": "fun"},
        {"owner": "a", "purpose": "evaluation", "token_budget": 5},
        {"owner": "a", "aliases": ["NO"]},
        {"owner": "a", "expires_at": 5},
        {"owner": "a", "expires_at": 1_900_000_000_000},
        {"owner": "a", "tenant": "other"},
    ],
)
async def test_bodies_are_checked(
    admin: httpx.AsyncClient, registry: Registry, body: dict[str, object]
) -> None:
    answer = await admin.post("/keys", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(registry.list_keys("default")) == 1


async def test_an_expiry_is_kept(admin: httpx.AsyncClient) -> None:
    soon = time.time() + 60
    answer = await admin.post("/keys", json={"owner": "a", "expires_at": soon})
    assert answer.json()["expires_at"] == soon


async def test_limits_are_set_shown_and_replaced(admin: httpx.AsyncClient) -> None:
    limits = {"max_parallel": 8, "token_budget": 10**12, "budget_period": "day"}
    made = (await admin.post("/keys", json={"owner": "shop", **limits})).json()
    assert made.items() >= {**limits, "tokens_per_minute": None, "account": made["id"]}.items()
    answer = await admin.patch(f"/keys/{made['id']}", json={"tokens_per_minute": 9000})
    assert answer.status_code == 200
    (_, listed) = (await admin.get("/keys")).json()["data"]
    assert answer.json() == listed
    assert [listed[name] for name in limits] == [None, None, "month"]
    assert listed["tokens_per_minute"] == 9000


async def test_a_rotated_key_works_beside_the_old_one_for_a_while(
    admin: httpx.AsyncClient, clients: Clients
) -> None:
    made = (await admin.post("/keys", json={"owner": "box", "role": "trainer"})).json()
    answer = await admin.post(f"/keys/{made['id']}/rotate", json={"overlap_s": 60})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    new = answer.json()
    assert new["account"] == made["id"] != new["id"]
    for secret in (made["key"], new["key"]):
        assert (await clients.bare(secret).get("/workers")).status_code == 200
    await admin.post(f"/keys/{new['id']}/rotate", json={"overlap_s": 0})
    assert (await clients.bare(new["key"]).get("/workers")).status_code == 401
    again = await admin.post(f"/keys/{new['id']}/rotate", json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_keys_of_others_are_neither_limited_nor_rotated(clients: Clients) -> None:
    mine, theirs = await clients(tenant="a"), await clients(tenant="b")
    made = (await mine.post("/keys", json={"owner": "x"})).json()
    for answer in (
        await theirs.patch(f"/keys/{made['id']}", json={"token_budget": 1}),
        await theirs.post(f"/keys/{made['id']}/rotate", json={}),
    ):
        assert answer.status_code == 404
    narrow = await clients(tenant="a", aliases=["support"])
    assert (await narrow.post(f"/keys/{made['id']}/rotate", json={})).status_code == 403
    assert (await narrow.patch(f"/keys/{made['id']}", json={})).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"tokens_per_minute": 2**31},
        {"max_parallel": 0},
        {"max_parallel": 2**31},
        {"token_budget": 0},
        {"token_budget": 2**53 + 1},
        {"budget_period": "week"},
        {"tokens_per_day": 5},
    ],
)
async def test_limits_are_checked(admin: httpx.AsyncClient, body: dict[str, object]) -> None:
    for path in ("/keys", "/keys/1"):
        method = "POST" if path == "/keys" else "PATCH"
        more = {"owner": "x"} if path == "/keys" else {}
        answer = await admin.request(method, path, json=body | more)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == next(iter(body))


async def test_a_keys_priority(admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/keys", json={"owner": "x", "priority": "high"})).json()
    assert made["priority"] == "high"
    changed = await admin.patch(f"/keys/{made['id']}", json={"priority": "low"})
    assert changed.json()["priority"] == "low"
    assert [key["priority"] for key in (await admin.get("/keys")).json()["data"]] == [
        "normal",
        "low",
    ]
    refused = await admin.patch(f"/keys/{made['id']}", json={"priority": "urgent"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")
