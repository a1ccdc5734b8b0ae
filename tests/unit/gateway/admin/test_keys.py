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
        {"owner": "a", "aliases": ["NO"]},
        {"owner": "a", "expires_at": 5},
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
