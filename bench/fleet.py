"""A whole installation for a measurement, each part a process of its own.

So what is measured shares no interpreter with what measures.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.live import wait_for
from tests.integration.stack import GUARD, Process, Stack
from tests.stub.server import free_port


class RemoteStub:
    """A stub worker in a process of its own; `arguments` go to its command line."""

    def __init__(self, name: str, arguments: list[str], logs: Path) -> None:
        self.port = free_port()
        module = ["tests.stub.worker", "--port", str(self.port)]
        self.process = Process(name, [*module, *arguments], logs)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until its port is open."""
        self.process.start()
        if not wait_for(lambda: _listens(socket.AF_INET, ("127.0.0.1", self.port)), 20):
            raise RuntimeError(f"the stub worker did not start:\n{self.process.tail()}")


@contextmanager
def fleet(
    home: Path,
    guard_socket: Path | None = None,
    *,
    workers: int = 1,
    gateways: int = 1,
    text: str | None = None,
    delay: float = 0.0,
    **options: Any,
) -> Iterator[Stack]:
    """Start everything and wait until it is ready; all of it ends with the block.

    `guard_socket` is that of a guard process that runs already; `text` and `delay` are what the
    workers say, and the seconds between two tokens; `options` replace fields of `GatewaySettings`.
    """
    logs = home / "processes"
    logs.mkdir(parents=True)
    said = ["--delay", str(delay), *(("--text", text) if text is not None else ())]
    with ExitStack() as cleanup:
        if guard_socket is None:
            guard_socket = logs / "guard.sock"
            guard = Process("guard", [GUARD, "--socket", str(guard_socket)], logs)
            cleanup.callback(guard.start().stop)
        stubs = [RemoteStub(f"stub-{at}", said, logs) for at in range(workers)]
        for stub in stubs:
            cleanup.callback(stub.process.stop)
            stub.start()
        if not wait_for(lambda: _listens(socket.AF_UNIX, str(guard_socket)), 120):
            raise RuntimeError("the guard process did not start")
        stack = Stack(home / "stack", guard_socket, stubs, **options)
        cleanup.callback(stack.stop)
        stack.start()
        for _ in range(gateways - 1):
            stack.add_gateway()
        yield stack


def _listens(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return True
