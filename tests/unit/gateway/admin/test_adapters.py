"""Adapters over the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from gateway.admin import sources
from gateway.registry.service import Registry
from gateway.registry.snapshot import Effect, Placement, VersionState, WorkerSpec
from tests.unit.gateway.registry.adapter_files import (
    fingerprint,
    left_in,
    write_adapter,
)

from .conftest import Clients, upload

VERSIONS = "/adapters/support/versions"


async def add(admin: httpx.AsyncClient, registry: Registry, folder: Path, fill: int) -> int:
    """Upload a version and have it verified."""
    answer = await admin.post(VERSIONS, files=upload(write_adapter(folder / str(fill), fill=fill)))
    assert answer.status_code == 201
    number = int(answer.json()["version"])
    version = registry.version("default", "support", number)
    registry.set_state(version.id, VersionState.CANDIDATE, "verified", "controller")
    return number


async def test_upload(admin: httpx.AsyncClient, app: FastAPI, tmp_path: Path) -> None:
    files = upload(write_adapter(tmp_path / "a", manifest={"fingerprint": fingerprint()}))
    answer = await admin.post(VERSIONS, files=files)
    assert answer.status_code == 201
    body = answer.json()
    assert body == {
        "alias": "support",
        "version": 1,
        "state": "registered",
        "sha256": body["sha256"],
    }
    assert len(body["sha256"]) == 64
    assert ("default", "support", 1) in app.state.serving.snapshot.versions
    again = await admin.post(VERSIONS, files=files)
    assert (again.status_code, again.json()) == (200, body)


async def test_import_by_path(admin: httpx.AsyncClient, imports: Path) -> None:
    folder = write_adapter(imports / "a")
    answer = await admin.post(VERSIONS, json={"path": str(folder)})
    assert (answer.status_code, answer.json()["version"]) == (201, 1)
    (imports / "link").symlink_to(folder)
    again = await admin.post(VERSIONS, json={"path": str(imports / "link")})
    assert again.status_code == 200


async def test_import_from_elsewhere(
    admin: httpx.AsyncClient, imports: Path, tmp_path: Path
) -> None:
    outside = write_adapter(tmp_path / "outside")
    (imports / "out").symlink_to(outside)
    (imports / "round").symlink_to(imports / "round")
    for path in (
        str(outside),
        str(tmp_path / "nowhere"),
        str(imports / ".." / "outside"),
        str(imports / "out"),
        str(imports) + "-sibling",
        "/",
        "/etc",
        str(imports / "round"),
        "relative",
        "",
        "nul\0",
    ):
        answer = await admin.post(VERSIONS, json={"path": path})
        error = answer.json()["error"]
        assert answer.status_code == 400, path
        assert "path" in error["message"] or "folder" in error["message"]
        assert error["type"] == "invalid_request_error"
    assert left_in(tmp_path / "storage") == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"path": 5}', b'{"path": "/a", "x": 1}', b"{", b"\xff"]
)
async def test_bodies_that_are_none(admin: httpx.AsyncClient, content: bytes) -> None:
    answer = await admin.post(
        VERSIONS, content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "path"


async def test_other_content_types(admin: httpx.AsyncClient) -> None:
    answer = await admin.post(VERSIONS, content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["error"]["message"]


async def test_bad_uploads(admin: httpx.AsyncClient, tmp_path: Path, registry: Registry) -> None:
    good = upload(write_adapter(tmp_path / "a"))
    before = registry.revision()
    for files, code, message in (
        (good[:1], "invalid_adapter", "adapter_model.safetensors is missing"),
        ([*good, good[0]], "invalid_adapter", "sent twice"),
        ([*good, ("files", ("../x", b""))], "invalid_adapter", "is not one of"),
        ([*good, ("files", ("a.bin", b""))], "invalid_adapter", "is a pickle"),
    ):
        answer = await admin.post(VERSIONS, files=files)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, code)
        assert message in error["message"]
    answer = await admin.post(VERSIONS, files=good, data={"note": "x"})
    assert "'note' is no file" in answer.json()["error"]["message"]
    assert left_in(tmp_path / "storage") == []
    assert registry.revision() == before


async def test_too_large(
    admin: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    monkeypatch.setattr(sources, "MULTIPART_SLACK", 0)
    files = upload(write_adapter(tmp_path / "a"))
    request = admin.build_request("POST", VERSIONS, files=files)
    answer = await admin.send(request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "adapter_too_large")

    content = await request.aread()

    async def unannounced() -> AsyncIterator[bytes]:
        yield content

    kind = {"content-type": request.headers["content-type"]}
    answer = await admin.post(VERSIONS, content=unannounced(), headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "adapter_too_large")
    answer = await admin.post(VERSIONS, json={"path": "/" + "x" * 70_000})
    assert answer.status_code == 413


async def test_names(admin: httpx.AsyncClient, tmp_path: Path) -> None:
    files = upload(write_adapter(tmp_path / "a"))
    for alias in ("UPPER", "%2e%2e", "a@1", "base"):
        answer = await admin.post(f"/adapters/{alias}/versions", files=files)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_name")
    for alias in ("UPPER", "none", "nul%00"):
        answer = await admin.get(f"/adapters/{alias}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_versions_life(
    admin: httpx.AsyncClient, app: FastAPI, registry: Registry, tmp_path: Path
) -> None:
    for fill in (1, 2, 3):
        await add(admin, registry, tmp_path, fill)

    async def post(what: str, **body: object) -> tuple[int, dict[str, object]]:
        answer = await admin.post(f"/adapters/support/{what}", json=body or None)
        return answer.status_code, answer.json()

    status, body = await post("rollback")
    assert (status, body["error"]["code"]) == (409, "conflict")  # type: ignore[index]
    assert (await post("promote", version=1))[1]["stable"] == 1
    assert app.state.serving.snapshot.aliases["default", "support"].stable.number == 1
    assert (await post("promote", version=2))[1]["previous"] == 1
    assert (await post("rollback"))[1]["stable"] == 1
    status, body = await post("rollout", version=3, steps=[0.05, 0.25, 1.0])
    assert (status, body["candidate"], body["weight"]) == (200, 3, 0.05)
    status, _ = await post("versions/3/retire")
    assert status == 409
    assert (await post("rollback"))[1]["candidate"] is None
    status, body = await post("versions/3/retire", reason="worse")
    assert (status, body["state"]) == (200, "retired")
    status, body = await post("promote", version=3)
    assert (status, body["error"]["code"]) == (409, "version_not_ready")  # type: ignore[index]

    told = (await admin.get("/adapters/support")).json()
    assert [event["kind"] for event in told["events"]] == [
        "promote",
        "promote",
        "rollback",
        "rollout",
        "rollback",
    ]
    assert (
        told["events"][3]["detail"].items() >= {"steps": [0.05, 0.25, 1.0], "weight": 0.05}.items()
    )
    assert told["events"][0]["actor"] == "admin-owner (key 1)"
    assert [v["state"] for v in told["versions"]] == ["serving", "serving", "retired"]
    last = told["versions"][2]["events"][-1]
    assert (last["state"], last["reason"]) == ("retired", "worse")
    assert told["versions"][2]["draining"]
    listed = (await admin.get("/adapters")).json()["data"]
    assert [(one["alias"], one["stable"]) for one in listed] == [("base", 0), ("support", 1)]


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("promote", {}),
        ("promote", {"version": "1"}),
        ("promote", {"version": -1}),
        ("promote", {"version": 2**31}),
        ("promote", {"version": True}),
        ("promote", {"version": 1, "more": 1}),
        ("rollout", {"version": 1, "steps": []}),
        ("rollout", {"version": 1, "steps": [0.0]}),
        ("rollout", {"version": 1, "steps": [1.5]}),
        ("rollout", {"version": 1, "steps": [0.5, 0.5]}),
        ("versions/x/retire", {}),
        ("versions/99999999999/retire", {}),
        ("versions/1/retire", {"reason": "a\0b"}),
    ],
)
async def test_bodies_are_checked(
    admin: httpx.AsyncClient, what: str, body: dict[str, object]
) -> None:
    answer = await admin.post(f"/adapters/support/{what}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_placements_are_told(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await add(admin, registry, tmp_path, 1)
    version = registry.version("default", "support", 1)
    registry.upsert_worker(WorkerSpec("w1", "http://127.0.0.1:1"))
    names = [version.worker_name, "of-another-tenant@1-1a2b3c4d"]
    metrics = {"running": 1, "adapters": names}
    registry.record_worker("w1", boot="b1", healthy=True, metrics=metrics)
    registry.record_placement(Placement("w1", version.id, "b1", Effect.EFFECTIVE, "close"))
    (told,) = (await admin.get("/adapters/support")).json()["versions"]
    (placement,) = told["placements"]
    assert placement["effect"] == "effective"
    assert (placement["routable"], placement["current"]) == (True, True)
    (worker,) = (await admin.get("/workers")).json()["data"]
    assert (worker["name"], worker["healthy"]) == ("w1", True)
    assert worker["metrics"] == {"running": 1, "adapters": 2}  # whose is not told
    assert worker["placements"] == [
        {"model": "support@1", "effect": "effective", "routable": True, "detail": "close"}
    ]
    registry.record_worker("w1", boot="b2", healthy=True)
    (told,) = (await admin.get("/adapters/support")).json()["versions"]
    assert (told["placements"][0]["routable"], told["placements"][0]["current"]) == (False, False)


async def test_versions_that_a_worker_was_started_without_are_told_with_the_reason(
    admin: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    await add(admin, registry, tmp_path, 1)
    name = registry.version("default", "support", 1).worker_name
    left_out = ((name, "of another family"), ("gone@9-1a2b3c4d", "odd"))
    registry.upsert_worker(WorkerSpec("w1", "http://127.0.0.1:1", "llamacpp", left_out=left_out))
    (worker,) = (await admin.get("/workers")).json()["data"]
    assert worker["placements"] == [
        {
            "model": "support@1",
            "effect": "left_out",
            "routable": False,
            "detail": "of another family",
        }
    ]


async def test_pins(admin: httpx.AsyncClient, registry: Registry, tmp_path: Path) -> None:
    await add(admin, registry, tmp_path, 1)
    path = "/adapters/support/versions/1/pin"
    answer = await admin.put(path, json={"replicas": 2})
    assert (answer.status_code, answer.json()["pinned"]) == (200, 2)
    (listed,) = (await admin.get("/adapters")).json()["data"][1]["versions"]
    assert (listed["version"], listed["pinned"]) == (1, 2)
    (told,) = (await admin.get("/adapters/support")).json()["versions"]
    assert (told["pinned"], told["used_at"]) == (2, told["created_at"])
    assert (await admin.put(path, json={})).json()["pinned"] == 1
    assert (await admin.delete(path)).json()["pinned"] is None
    assert (await admin.put("/adapters/support/versions/9/pin", json={})).status_code == 404
    base = await admin.put("/adapters/base/versions/0/pin", json={})
    assert (base.status_code, base.json()["error"]["code"]) == (409, "conflict")
    for body in ({"replicas": 0}, {"replicas": "2"}, {"replicas": 2, "more": 1}):
        assert (await admin.put(path, json=body)).status_code == 400


def test_listing_asks_no_more_of_the_store_for_more_adapters(
    registry: Registry, tmp_path: Path
) -> None:
    asked: list[str] = []

    def count(*told: object) -> None:
        asked.append(str(told[2]))

    event.listen(registry._engine, "before_cursor_execute", count)
    counts = []
    for fill in (1, 2, 3):
        registry.register("default", f"a{fill}", write_adapter(tmp_path / str(fill), fill=fill))
        asked.clear()
        registry.overview("default")
        counts.append(len(asked))
    assert counts[0] == counts[2]


async def test_tenants_do_not_meet(
    admin: httpx.AsyncClient, clients: Clients, registry: Registry, tmp_path: Path
) -> None:
    await add(admin, registry, tmp_path, 1)
    other = await clients(tenant="other")
    assert (await other.get("/adapters/support")).status_code == 404
    assert [a["alias"] for a in (await other.get("/adapters")).json()["data"]] == ["base"]
    for what, body in (("promote", {"version": 1}), ("rollback", {}), ("versions/1/retire", {})):
        answer = await other.post(f"/adapters/support/{what}", json=body)
        assert answer.status_code == 404


async def test_a_key_for_some_aliases_sees_these(
    admin: httpx.AsyncClient, clients: Clients, registry: Registry, tmp_path: Path
) -> None:
    await add(admin, registry, tmp_path, 1)
    narrow = await clients(aliases=["sales"])
    assert (await narrow.get("/adapters")).json()["data"] == []
    assert (await narrow.get("/adapters/support")).status_code == 404
    files = upload(tmp_path / "1")
    assert (await narrow.post(VERSIONS, files=files)).status_code == 404
    assert (await narrow.post("/adapters/sales/versions", files=files)).status_code == 201


@pytest.mark.parametrize(
    ("role", "read", "register", "promote"),
    [
        ("app", 403, 403, 403),
        ("reviewer", 200, 403, 403),
        ("trainer", 200, 200, 403),
        ("admin", 200, 200, 200),
    ],
)
async def test_roles(
    admin: httpx.AsyncClient,
    clients: Clients,
    registry: Registry,
    tmp_path: Path,
    role: str,
    read: int,
    register: int,
    promote: int,
) -> None:
    await add(admin, registry, tmp_path, 1)
    client = await clients(role)
    assert (await client.get("/adapters")).status_code == read
    assert (await client.post(VERSIONS, files=upload(tmp_path / "1"))).status_code == register
    answer = await client.post("/adapters/support/promote", json={"version": 1})
    assert answer.status_code == promote


async def test_strangers(clients: Clients, tmp_path: Path) -> None:
    stranger = clients.bare()
    wrong = clients.bare("sk-al-wrong")
    for client in (stranger, wrong):
        for answer in (
            await client.get("/adapters"),
            await client.get("/workers"),
            await client.get("/keys"),
            await client.post(VERSIONS, files=upload(write_adapter(tmp_path / "a"))),
            await client.post("/adapters/support/promote", json={"version": 1}),
        ):
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_the_document_is_complete(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    body = paths["/admin/v1/adapters/{alias}/versions"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    assert len(paths) == 41
    for path in paths.values():
        for operation in path.values():
            assert "401" in operation["responses"]
            assert operation["summary"]
