"""Workers whose number changes: what the lists say, and what follows from it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from gateway.registry.snapshot import Snapshot, WorkerOptions, WorkerSpec
from gateway.settings import WorkerSettings
from gateway.workers.discovery import (
    GRACE_S,
    Discovery,
    Dns,
    Kubernetes,
    LookupFailed,
    found_spec,
    source_of,
)
from tests.unit.gateway.workers.conftest import Answers

ENTRY = WorkerSettings(name="gpu", url="dns+http://vllm.models.svc:8001")


class Listed:
    """A source that says what the test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.fails = False

    async def find(self) -> frozenset[tuple[str, int]]:
        if self.fails:
            raise LookupFailed("no such name")
        return frozenset((address, 8001) for address in self.addresses)


class Known:
    """The registry's workers."""

    def __init__(self, *specs: WorkerSpec) -> None:
        self.workers = {spec.name: spec for spec in specs}
        self.writes = 0

    def snapshot(self) -> Snapshot:
        return Snapshot(1, {}, {}, {}, dict(self.workers))

    def upsert_worker(self, spec: WorkerSpec) -> None:
        self.writes += 1
        self.workers[spec.name] = spec

    def remove_worker(self, name: str) -> bool:
        return self.workers.pop(name, None) is not None


class Clock:
    """Time that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(store: Known, source: Listed, clock: Clock) -> Discovery:
    return Discovery(store, [(ENTRY, source)], clock)


async def test_each_address_is_a_worker_with_a_name_of_its_own() -> None:
    store = Known(WorkerSpec("fixed", "http://fixed"))
    discovery = made(store, Listed("10.0.0.1", "fd00::1"), Clock())
    await discovery.step()
    await discovery.step()
    assert {name: spec.url for name, spec in store.workers.items()} == {
        "fixed": "http://fixed",
        "gpu@10.0.0.1": "http://10.0.0.1:8001",
        "gpu@fd00::1": "http://[fd00::1]:8001",
    }
    assert store.writes == 2


async def test_a_worker_that_vanishes_is_removed_after_a_grace_time_only() -> None:
    store, source, clock = Known(), Listed("10.0.0.1", "10.0.0.2"), Clock()
    discovery = made(store, source, clock)
    await discovery.step()
    source.addresses = ("10.0.0.1",)
    await discovery.step()
    clock.now = GRACE_S - 1
    await discovery.step()
    assert len(store.workers) == 2
    clock.now = GRACE_S
    await discovery.step()
    assert set(store.workers) == {"gpu@10.0.0.1"}


async def test_a_worker_that_comes_back_begins_anew() -> None:
    store, source, clock = Known(), Listed("10.0.0.1"), Clock()
    discovery = made(store, source, clock)
    await discovery.step()
    source.addresses = ()
    await discovery.step()
    clock.now, source.addresses = GRACE_S - 1, ("10.0.0.1",)
    await discovery.step()
    clock.now, source.addresses = GRACE_S + 1, ()
    await discovery.step()
    assert set(store.workers) == {"gpu@10.0.0.1"}


async def test_a_failing_lookup_removes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    store, source, clock = Known(), Listed("10.0.0.1"), Clock()
    discovery = made(store, source, clock)
    await discovery.step()
    source.fails = True
    for clock.now in (1.0, 10 * GRACE_S):
        await discovery.step()
    assert set(store.workers) == {"gpu@10.0.0.1"}
    assert caplog.text.count("no such name") == 1


async def test_a_new_leader_knows_those_that_another_one_found() -> None:
    """Also those of an entry that is no longer configured; fixed workers are no concern of it."""
    left = [WorkerSpec(name, "http://x") for name in ("gpu@10.0.0.9", "old@10.0.0.8", "fixed")]
    store, clock = Known(*left), Clock()
    discovery = made(store, Listed(), clock)
    await discovery.step()
    discovery.stand_by()
    clock.now = GRACE_S
    await discovery.step()
    assert len(store.workers) == 3
    clock.now = 2 * GRACE_S
    await discovery.step()
    assert set(store.workers) == {"fixed"}


def test_what_is_found_keeps_what_is_configured() -> None:
    entry = WorkerSettings(
        name="gpu",
        url="dns+https://x:1/llm/v1",
        kind="openai",
        api_key_env="K",
        models={"a@1": "b"},
    )
    assert found_spec(entry, "10.0.0.1", 1) == WorkerSpec(
        "gpu@10.0.0.1", "https://10.0.0.1:1/llm", "openai", WorkerOptions("K", (("a@1", "b"),))
    )


SLICES: dict[str, Any] = {
    "items": [
        {
            "ports": [{"name": "http", "port": 8001}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": True}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": False, "terminating": True}},
            ],
        },
        {"ports": None, "endpoints": [{"addresses": ["10.0.0.4"]}]},
        {"ports": [{"port": 8002}], "endpoints": None},
    ]
}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "token").write_text("the-token\n")
    (tmp_path / "ca.crt").write_text("")
    context = ssl.create_default_context()
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: context)
    return tmp_path


def slices(seen: list[web.Request], status: int = 200, body: object = SLICES) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(body, status=status)

    return answer


PATH = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices"


def cluster(session: aiohttp.ClientSession, account: Path, port: int | None = None) -> Kubernetes:
    return Kubernetes(session, "vllm", "models", port, api="http://api", account=account)


async def test_endpoints_come_from_the_api_server_as_the_service_account(
    session: aiohttp.ClientSession, answers: Answers, account: Path
) -> None:
    seen: list[web.Request] = []
    answers[PATH] = slices(seen)
    found = await cluster(session, account).find()
    assert found == {("10.0.0.1", 8001), ("10.0.0.2", 8001)}
    assert seen[0].headers["authorization"] == "Bearer the-token"
    assert seen[0].query["labelSelector"] == "kubernetes.io/service-name=vllm"
    (account / "token").write_text("renewed")
    assert ("10.0.0.4", 9) in await cluster(session, account, port=9).find()
    assert seen[1].headers["authorization"] == "Bearer renewed"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(403, {"message": "forbidden"}, "403"), (200, {"items": 1}, "cannot be read")],
)
async def test_an_api_server_that_refuses_is_told(
    session: aiohttp.ClientSession,
    answers: Answers,
    account: Path,
    status: int,
    body: object,
    words: str,
) -> None:
    answers[PATH] = slices([], status, body)
    with pytest.raises(LookupFailed, match=words):
        await cluster(session, account).find()


async def test_outside_a_cluster_there_is_no_account(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    with pytest.raises(LookupFailed, match="token"):
        await cluster(session, tmp_path / "nowhere").find()


async def test_an_entry_tells_how_its_workers_are_found(session: aiohttp.ClientSession) -> None:
    def source(url: str) -> object:
        return source_of(WorkerSettings(name="w", url=url), session)

    assert isinstance(source("dns+http://vllm.models.svc:8001"), Dns)
    assert isinstance(source("k8s+http://vllm.models"), Kubernetes)
    assert source("http://vllm:8001") is None


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("w", "ftp://vllm", "begins with"),
        ("w", "srv+http://vllm", "begins with"),
        ("w", "k8s+http://vllm", "namespace"),
        ("w@1", "http://vllm", "name"),
    ],
)
def test_entries_that_mean_nothing_are_refused(name: str, url: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        WorkerSettings(name=name, url=url)
