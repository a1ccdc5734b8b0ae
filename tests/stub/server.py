"""A stub worker on a thread of the test process, which can be killed and started again."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from .script import Script
from .worker import Seen, Worker, serving_config

_FIRST_PORT, _OUTGOING = 10_000, Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, given once, below those that connections go out from.

    A port of those could be taken by any connection before it is listened on, or while a worker is
    away; and who connects to it then may even meet himself.
    """
    end = int(_OUTGOING.read_text().split()[0]) if _OUTGOING.exists() else 32_768
    ports = range(_FIRST_PORT, max(end, _FIRST_PORT + 1_000))
    while True:
        port = random.SystemRandom().choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class StubWorker:
    """Starts, kills and restarts a stub worker; its `worker` and `seen` may be read at any time."""

    def __init__(
        self,
        base: str = "base@0",
        root: str = "/models/base",
        around: Callable[[Any], Any] = lambda app: app,
        worker: Worker | None = None,
    ) -> None:
        """Make one; `around` puts ASGI middleware before it, as vLLM's --middleware does."""
        self.worker = worker or Worker(base, root)
        self._around = around
        self.port = free_port()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the worker listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen(self) -> Seen:
        """What the worker saw so far."""
        return self.worker.seen

    @property
    def script(self) -> Script:
        """What the worker says; assign a new one at any time."""
        return self.worker.script

    @script.setter
    def script(self, script: Script) -> None:
        self.worker.script = script

    @property
    def open_connections(self) -> int:
        """How many connections clients hold open."""
        return len(self._server.server_state.connections)

    def start(self) -> StubWorker:
        """Serve; returns when the port is open."""
        self._server = uvicorn.Server(
            serving_config(self._around(self.worker), "127.0.0.1", self.port)
        )
        self._thread = threading.Thread(target=self._run, name="stub-worker", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the stub worker did not start")
            time.sleep(0.005)
        return self

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())

    def kill(self) -> None:
        """Drop every connection and stop listening at once, as SIGKILL does."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._drop_all)
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the stub worker did not end"
        self._thread = None
        self.worker.seen.running = 0

    stop = kill

    def _drop_all(self) -> None:
        for listener in self._server.servers:
            listener.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        for task in list(self._server.server_state.tasks):
            task.cancel()
        self._server.should_exit = self._server.force_exit = True

    def restart(self) -> None:
        """Kill the worker and start it again, with a new boot and without its adapters."""
        self.kill()
        self.worker.reboot()
        self.start()

    def wait_idle(self, timeout: float = 10.0) -> bool:
        """Whether nothing runs on the worker within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.seen.running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def __enter__(self) -> StubWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
