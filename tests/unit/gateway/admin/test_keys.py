"""Keys over the admin API."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert

from feedback.db import writing
from feedback.tables import USAGE
from feedback.usage import day_of
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


async def test_limits_are_set_shown_and_changed(admin: httpx.AsyncClient) -> None:
    limits = {"max_parallel": 8, "token_budget": 10**12, "budget_period": "day"}
    made = (await admin.post("/keys", json={"owner": "shop", **limits})).json()
    assert made.items() >= {**limits, "tokens_per_minute": None, "account": made["id"]}.items()
    answer = await admin.patch(f"/keys/{made['id']}", json={"tokens_per_minute": 9000})
    assert answer.status_code == 200
    (_, listed) = (await admin.get("/keys")).json()["data"]
    assert answer.json() == listed
    assert listed.items() >= {**limits, "tokens_per_minute": 9000}.items()  # the others stay
    fewer = await admin.patch(f"/keys/{made['id']}", json={"token_budget": None})
    assert (fewer.json()["token_budget"], fewer.json()["max_parallel"]) == (None, 8)


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
        await theirs.get(f"/keys/{made['id']}"),
    ):
        assert answer.status_code == 404
    narrow = await clients(tenant="a", aliases=["support"])
    assert (await narrow.post(f"/keys/{made['id']}/rotate", json={})).status_code == 403
    assert (await narrow.patch(f"/keys/{made['id']}", json={})).status_code == 403
    assert (await narrow.get(f"/keys/{made['id']}")).status_code == 403


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


async def test_what_is_changed_of_a_key(admin: httpx.AsyncClient, registry: Registry) -> None:
    made = (await admin.post("/keys", json={"owner": "shop", "max_parallel": 8})).json()
    path, soon = f"/keys/{made['id']}", time.time() + 60
    before = registry.revision()
    changes = {"owner": "store", "aliases": ["b", "a", "a"], "expires_at": soon}
    changed = (await admin.patch(path, json=changes)).json()
    assert changed.items() >= {**changes, "aliases": ["a", "b"], "max_parallel": 8}.items()
    assert registry.revision() == before + 1  # which every gateway hears of
    (key,) = [key for key in registry.snapshot().keys.values() if key.id == made["id"]]
    assert (key.owner, key.aliases, key.expires_at) == ("store", {"a", "b"}, soon)
    back = (await admin.patch(path, json={"aliases": None, "expires_at": None})).json()
    assert (back["owner"], back["aliases"], back["expires_at"]) == ("store", None, None)


async def test_what_is_taken_from_a_key_is_taken_from_those_it_was_rotated_with(
    admin: httpx.AsyncClient, registry: Registry
) -> None:
    old = (await admin.post("/keys", json={"owner": "shop"})).json()
    new = (await admin.post(f"/keys/{old['id']}/rotate", json={"overlap_s": 60})).json()
    await admin.patch(f"/keys/{new['id']}", json={"aliases": ["support"]})
    ends = registry.get_key("default", old["id"]).key.expires_at
    for key_id in (old["id"], new["id"]):
        assert (await admin.get(f"/keys/{key_id}")).json()["aliases"] == ["support"]
    await admin.patch(f"/keys/{new['id']}", json={"expires_at": None})
    assert registry.get_key("default", old["id"]).key.expires_at == ends


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, None),
        ({"owner": ""}, "owner"),
        ({"owner": None}, "owner"),
        ({"aliases": ["NO"]}, "alias"),
        ({"expires_at": 5}, "expires_at"),
        ({"expires_at": 1_900_000_000_000}, "expires_at"),
        ({"role": "admin"}, "role"),
    ],
)
async def test_changes_are_checked(
    admin: httpx.AsyncClient, body: dict[str, object], param: str | None
) -> None:
    made = (await admin.post("/keys", json={"owner": "shop"})).json()
    answer = await admin.patch(f"/keys/{made['id']}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert (await admin.get(f"/keys/{made['id']}")).json()["owner"] == "shop"


async def test_a_key_does_not_shut_itself_out(admin: httpx.AsyncClient) -> None:
    """With aliases it could manage keys no more, and so not take this back."""
    own = (await admin.get("/keys")).json()["first_id"]
    assert (await admin.patch(f"/keys/{own}", json={"aliases": ["support"]})).status_code == 409
    assert (await admin.patch(f"/keys/{own}", json={"owner": "me"})).status_code == 200


async def test_a_revoked_key_is_told_and_not_brought_back(admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/keys", json={"owner": "shop"})).json()
    path = f"/keys/{made['id']}"
    gone = (await admin.delete(path)).json()["revoked_at"]
    assert (await admin.patch(path, json={"expires_at": None})).status_code == 409
    assert (await admin.get(path)).json()["revoked_at"] == gone
    assert (await admin.get("/keys/99")).status_code == 404


async def test_what_is_left_of_a_budget(
    app: FastAPI, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 20_780.5 * 86_400  # far from midnight
    monkeypatch.setattr(time, "time", lambda: now)
    limits = {"token_budget": 100, "budget_period": "day"}
    made = (await admin.post("/keys", json={"owner": "shop", **limits})).json()
    new = (await admin.post(f"/keys/{made['id']}/rotate", json={})).json()
    assert (await admin.get("/keys/1")).json()["budget"] is None

    async def use(key_id: int, tokens: int, at: float) -> dict[str, Any]:
        values = {"tenant": "default", "day": day_of(at), "alias": "a", "version": 0}
        counts = {"requests": 1, "prompt_tokens": tokens, "completion_tokens": 1}
        with writing(app.state.serving.database) as connection:
            connection.execute(insert(USAGE).values(key_id=key_id, **values, **counts))
        told: dict[str, Any] = (await admin.get(f"/keys/{made['id']}")).json()["budget"]
        return told

    yesterday = await use(made["id"], 50, now - 86_400)
    assert (yesterday["used"], yesterday["left"], yesterday["since"]) == (0, 100, day_of(now))
    assert yesterday["ends_at"] == now + 43_200
    both = await use(new["id"], 39, now)
    assert (both["used"], both["left"]) == (40, 60)
    past = await use(made["id"], 79, now)
    assert (past["used"], past["left"]) == (120, 0)


async def test_a_request_that_is_sent_again_makes_no_second_key(
    admin: httpx.AsyncClient, clients: Clients, registry: Registry
) -> None:
    """The secret is not kept, so it cannot be told again: the key is named, to be revoked."""
    named, body = {"idempotency-key": "terraform/shop-1"}, {"owner": "shop"}
    made = (await admin.post("/keys", json=body, headers=named)).json()
    again = await admin.post("/keys", json=body, headers=named)
    error = again.json()["error"]
    assert (again.status_code, error["code"]) == (409, "conflict")
    assert f"Key {made['id']} ({made['key'][:12]}...)" in error["message"]
    assert made["key"] not in again.text
    assert len(registry.list_keys("default")) == 2
    # Another's requests have names of their own, and rotating is no such request.
    other = await clients(tenant="other")
    assert (await other.post("/keys", json=body, headers=named)).status_code == 201
    for _ in range(2):
        assert (await admin.post(f"/keys/{made['id']}/rotate", json={})).status_code == 201


@pytest.mark.parametrize("value", ["", "a b", "é".encode(), "x" * 256])
async def test_names_of_requests_are_checked(admin: httpx.AsyncClient, value: str | bytes) -> None:
    answer = await admin.post("/keys", json={"owner": "x"}, headers={"idempotency-key": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].lower() == "idempotency-key"
