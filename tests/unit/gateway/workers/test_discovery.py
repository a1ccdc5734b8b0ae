"""Workers whose number changes: what the lists say, and what follows from it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import aiohttp
import pytest
from pydantic import ValidationError

from gateway.errors import StoreUnavailable
from gateway.registry.snapshot import Snapshot, WorkerOptions, WorkerSpec
from gateway.settings import WorkerSettings
from gateway.workers.discovery import (
    GRACE_S,
    Discovery,
    Dns,
    found_spec,
    source_of,
)
from gateway.workers.errors import LookupFailed
from gateway.workers.kubernetes import Kubernetes

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


@pytest.mark.parametrize(
    ("records", "workers"),
    [
        (["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2"], {"10.0.0.1", "10.0.0.2"}),
        (["fd00::1", "fd00::2"], {"fd00::1", "fd00::2"}),
    ],
    ids=["both families", "IPv6 alone"],
)
async def test_a_pod_with_both_families_is_one_worker_of_a_name(
    records: list[str], workers: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in records
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    found = await Dns("vllm.models.svc", 8001).find()
    assert found == {(address, 8001) for address in workers}


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


class Followed(Listed):
    """A source that is told of changes."""

    grace_s = 5.0

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.ending: set[str] = set()
        self.news = asyncio.Event()
        self.follows = False

    async def follow(self) -> None:
        self.follows = True
        try:
            await asyncio.Event().wait()
        finally:
            self.follows = False

    async def changed(self) -> None:
        await self.news.wait()
        self.news.clear()


async def test_a_worker_that_is_told_to_end_gets_no_grace_and_others_a_short_one() -> None:
    store, source, clock = Known(), Followed("10.0.0.1", "10.0.0.2", "10.0.0.3"), Clock()
    discovery = made(store, source, clock)
    await discovery.step()
    source.addresses, source.ending = ("10.0.0.1",), {"10.0.0.2"}
    await discovery.step()
    assert set(store.workers) == {"gpu@10.0.0.1", "gpu@10.0.0.3"}
    clock.now = source.grace_s
    await discovery.step()
    assert set(store.workers) == {"gpu@10.0.0.1"}


class Stuck(Listed):
    """A name server that does not answer."""

    async def find(self) -> frozenset[tuple[str, int]]:
        await asyncio.Event().wait()
        raise AssertionError


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (tasks of the code under test change it)
            await asyncio.sleep(0.005)


async def test_changes_are_taken_up_at_once_whatever_other_entries_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.workers.discovery.LOOK_S", 600.0)
    store, source, leads = Known(), Followed("10.0.0.1"), False
    other = WorkerSettings(name="slow", url="dns+http://vllm")
    discovery = Discovery(store, [(other, Stuck()), (ENTRY, source)])
    running = asyncio.create_task(discovery.run(lambda: leads, 0.01))
    await until(lambda: source.follows)
    await asyncio.sleep(0.05)
    assert store.workers == {}
    leads = True
    await until(lambda: set(store.workers) == {"gpu@10.0.0.1"})
    source.addresses, source.ending = ("10.0.0.2",), {"10.0.0.1"}
    source.news.set()
    await until(lambda: set(store.workers) == {"gpu@10.0.0.2"})  # long before the next look
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not source.follows


async def test_a_store_that_is_away_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.workers.discovery.LOOK_S", 0.01)
    store, source = Known(), Followed("10.0.0.1")
    answers = iter([StoreUnavailable()])

    def snapshot() -> Snapshot:
        for error in answers:
            raise error
        return Snapshot(1, {}, {}, {}, dict(store.workers))

    monkeypatch.setattr(store, "snapshot", snapshot)
    running = asyncio.create_task(Discovery(store, [(ENTRY, source)]).run(lambda: True, 0.01))
    await until(lambda: store.workers)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


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
