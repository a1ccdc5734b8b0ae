"""Stub workers, a guard process and gateways for the serving tests."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import WorkerSettings
from tests.acceptance.live import Live
from tests.stub.script import Script
from tests.stub.server import StubWorker

from . import stack as stacks
from .stack import Process, Stack

MakeStack = Callable[..., Stack]
Keys = Callable[..., httpx.Client]


def listens(path: Path) -> bool:
    """Whether a process takes connections on this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def guard_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real guard process, started once."""
    folder = tmp_path_factory.mktemp("guard")
    path = folder / "guard.sock"
    guard = Process("guard", [stacks.GUARD, "--socket", str(path)], folder).start()
    deadline = time.monotonic() + 200
    while not listens(path):
        if time.monotonic() > deadline or not guard.alive:
            raise AssertionError(f"the guard process did not start:\n{guard.tail()}")
        time.sleep(0.05)
    yield path
    guard.stop()


@pytest.fixture(scope="session")
def shared_stub() -> Iterator[StubWorker]:
    with StubWorker() as stub:
        yield stub


@pytest.fixture(scope="session")
def shared_stack(
    tmp_path_factory: pytest.TempPathFactory, guard_socket: Path, shared_stub: StubWorker
) -> Iterator[Stack]:
    """One gateway for tests that leave it as it was: support@1, support@2 (stable), triage@1."""
    stack = Stack(tmp_path_factory.mktemp("stack"), guard_socket, [shared_stub])
    try:
        stack.start()
        stack.publish("support", stack.source("support-1", seed=1))
        stack.publish("support", stack.source("support-2", seed=2))
        stack.publish("triage", stack.source("triage-1", seed=3))
        for model in ("support", "support@1", "triage"):
            assert stack.routable(model), stack.controller.tail()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def stack(shared_stack: Stack, shared_stub: StubWorker) -> Iterator[Stack]:
    """The shared stack, whose worker forgets its script after the test."""
    yield shared_stack
    shared_stub.script = Script()


@pytest.fixture
def stub(shared_stub: StubWorker) -> Iterator[StubWorker]:
    yield shared_stub
    shared_stub.script = Script()


@pytest.fixture
def live(stack: Stack) -> Live:
    return stack.live


@pytest.fixture
def make_stack(tmp_path: Path, guard_socket: Path) -> Iterator[MakeStack]:
    """Makes stacks of their own: `make_stack(workers=2, timeouts=...)`."""
    with ExitStack() as cleanup:
        made = 0

        def make(
            workers: int | tuple[WorkerSettings, ...] = 1, *, start: bool = True, **options: Any
        ) -> Stack:
            nonlocal made
            made += 1
            stubs: list[StubWorker | WorkerSettings] = (
                [cleanup.enter_context(StubWorker()) for _ in range(workers)]
                if isinstance(workers, int)
                else [*workers]
            )
            guard = options.pop("guard_socket", guard_socket)
            stack = Stack(tmp_path / f"home-{made}", guard, stubs, **options)
            cleanup.callback(stack.stop)
            return stack.start() if start else stack

        yield make


@pytest.fixture
def keys(live: Live, stub: StubWorker) -> Iterator[Keys]:
    """Makes clients whose key has these limits; the worker offers every route."""
    stub.worker.pooling = True
    opened: list[httpx.Client] = []

    def make(**limits: Any) -> httpx.Client:
        with live.admin() as admin:
            made = admin.post("/admin/v1/keys", json={"owner": "limited", **limits})
        assert made.status_code == 201, made.text
        opened.append(live.http(made.json()["key"]))
        return opened[-1]

    yield make
    stub.worker.pooling = False
    for client in opened:
        client.close()
