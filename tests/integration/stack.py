"""A whole gateway on stub workers: real processes, real guards, a database of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx

from deploy.migrations import upgrade
from gateway.registry.service import Registry
from gateway.settings import GatewaySettings, WorkerSettings
from tests.acceptance.live import Live, wait_for
from tests.stub.server import StubWorker, free_port

from .adapters import BASE, add_fingerprint, make_adapter, make_base

REPOSITORY = Path(__file__).resolve().parents[2]
GUARD = "guardrails.process"


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, name: str, arguments: Sequence[str], logs: Path) -> None:
        self.name = name
        self.arguments = [sys.executable, "-m", *arguments]
        self.log = logs / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it; output is appended to the log."""
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.arguments,
                cwd=REPOSITORY,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._popen is not None
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; killed if it does not end within half a minute, as Kubernetes would."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            self._popen.send_signal(how)
            try:
                self._popen.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
                raise AssertionError(f"{self.name} did not end:\n{self.tail()}") from None
        self._popen = None

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Stack:
    """One gateway and one controller over stub workers; `add_gateway` adds others.

    `options` replace fields of `GatewaySettings`. The app's key may call every alias of the
    default tenant.
    """

    def __init__(
        self,
        home: Path,
        guard_socket: Path,
        workers: Sequence[StubWorker | WorkerSettings],
        *,
        controller: bool = True,
        **options: Any,
    ) -> None:
        self.home = home
        self.workers = [worker for worker in workers if not isinstance(worker, WorkerSettings)]
        for name in ("logs", "storage", "outbox", "sources"):
            (home / name).mkdir(parents=True)
        self.port = free_port()
        given: dict[str, Any] = {
            "database_url": f"sqlite:///{home / 'adapterloop.db'}",
            "storage": home / "storage",
            "outbox": home / "outbox",
            "guard_socket": guard_socket,
            "import_roots": (home / "sources",),
            "workers": tuple(
                worker
                if isinstance(worker, WorkerSettings)
                else WorkerSettings(name=f"stub-{at}", url=worker.url)
                for at, worker in enumerate(workers)
            ),
            "base_model": BASE,
            "base_model_path": make_base(home / "models"),
            "port": self.port,
        }
        self.settings = GatewaySettings(**given | options)
        self.gateway = self._process("gateway", self.settings)
        self.controller = self._process("controller", self.settings)
        self.others: list[tuple[Process, Live]] = []
        self._with_controller = controller
        self.live: Live

    def _process(self, role: str, settings: GatewaySettings) -> Process:
        name = role if settings.port == self.port else f"{role}-{settings.port}"
        path = self.home / f"{name}.json"
        path.write_text(settings.model_dump_json())
        return Process(name, ["tests.integration.serve", role, str(path)], self.home / "logs")

    def start(self, *, ready: bool = True) -> Self:
        """Migrate, make keys, start; returns when the gateway is ready and uses all workers."""
        upgrade(self.settings.database_url)
        registry = Registry.from_settings(self.settings)
        registry.prepare()
        keys = [
            registry.create_key(tenant="default", owner=role, role=role)[0]
            for role in ("app", "admin", "reviewer")
        ]
        registry.close()
        self.live = Live(
            base_url=f"http://127.0.0.1:{self.port}/v1",
            api_key=keys[0],
            admin_key=keys[1],
            reviewer_key=keys[2],
            home=self.home,
            aliases=("support", "triage"),
        )
        self.gateway.start()
        if self._with_controller:
            self.controller.start()
        if ready:
            self.wait_ready()
            self._wait_for_all_workers(self.live)
        return self

    def add_gateway(self) -> tuple[Process, Live]:
        """Start another gateway on the same store and workers, and wait until it is ready."""
        port = free_port()
        process = self._process("gateway", self.settings.model_copy(update={"port": port}))
        live = replace(self.live, base_url=f"http://127.0.0.1:{port}/v1")
        self.others.append((process.start(), live))
        self._wait_ready(process, live, 200)
        self._wait_for_all_workers(live)
        return process, live

    def wait_ready(self, seconds: float = 200) -> None:
        """Wait until `/health/ready` of the first gateway says 200."""
        self._wait_ready(self.gateway, self.live, seconds)

    def _wait_ready(self, gateway: Process, live: Live, seconds: float) -> None:
        deadline, last = time.monotonic() + seconds, "nothing listens"
        while time.monotonic() < deadline and gateway.alive:
            try:
                answer = httpx.get(f"{live.root}/health/ready", timeout=15)
                if answer.status_code == 200:
                    return
                last = answer.text
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(
            f"the gateway is not ready: {last}\n{gateway.tail()}\n{self.controller.tail()}"
        )

    def _wait_for_all_workers(self, live: Live) -> None:
        """A gateway is ready with its first worker; wait until it sends calls to the others too.

        The calls count tokens, so no worker sees them as calls for an answer, and nothing is kept.
        """
        if len(self.workers) < 2:
            return

        def asked() -> list[int]:
            """How often each was; they may be processes of their own."""
            states = [http.get(f"{stub.url}/_stub/state").json() for stub in self.workers]
            return [state["paths"].get("/tokenize", 0) for state in states]

        def all_asked() -> bool:
            http.post("/v1/tokenize", json={"model": "base", "prompt": "x"})
            return all(now > was for now, was in zip(asked(), before, strict=True))

        with live.http() as http:
            before = asked()
            assert wait_for(all_asked, 120, 0.01), self.gateway.tail()

    def health(self, kind: str) -> int:
        """The status of `/health/live` or `/health/ready`; 0 when nothing listens."""
        try:
            return httpx.get(f"{self.live.root}/health/{kind}", timeout=15).status_code
        except httpx.HTTPError:
            return 0

    def stop(self) -> None:
        """End gateways and controller; they must end when asked."""
        with ExitStack() as ends:
            ends.callback(self.controller.stop)
            for process in (*(process for process, _ in self.others), self.gateway):
                ends.callback(process.stop)

    def source(self, name: str, **options: Any) -> Path:
        """Make a tiny adapter in a folder that the gateway may import from."""
        scale = options.pop("scale", 1.0)
        folder = make_adapter(self.home / "sources" / name, **options)
        return add_fingerprint(folder, scale=scale)

    def register(self, alias: str, folder: Path) -> httpx.Response:
        """Ask for a new version from a folder on this machine."""
        with self.live.admin() as admin:
            return admin.post(f"/admin/v1/adapters/{alias}/versions", json={"path": str(folder)})

    def promote(self, alias: str, number: int) -> httpx.Response:
        """Ask for a promotion, once."""
        with self.live.admin() as admin:
            return admin.post(f"/admin/v1/adapters/{alias}/promote", json={"version": number})

    def publish(self, alias: str, folder: Path, *, promote: bool = True) -> int:
        """Register a version, wait until it may be promoted, and promote it; its number."""
        answer = self.register(alias, folder)
        assert answer.status_code == 201, answer.text
        number = int(answer.json()["version"])
        if promote:
            last = wait_for(lambda: (r := self.promote(alias, number)).status_code == 200 and r, 60)
            assert last, f"{self.promote(alias, number).text}\n{self.controller.tail()}"
        else:
            assert wait_for(lambda: self.callable(f"{alias}@{number}"), 60), self.controller.tail()
        return number

    def kept(self, ids: Collection[str], seconds: float = 20) -> bool:
        """Whether in time all these records are on disk: in the outbox, or shipped from it."""
        box = self.home / "outbox" / f"gateway-{self.port}.db"

        def missing() -> set[str]:
            # In this order: a record is in the store before it leaves the outbox.
            return set(ids) - _ids(box, "SELECT id FROM outbox") - self.stored()

        return bool(wait_for(lambda: not missing(), seconds))

    def stored(self) -> set[str]:
        """The ids of the records that are in the store, as the outbox names them."""
        shipped = (
            "SELECT id FROM captures UNION SELECT id FROM counted"
            " UNION SELECT 'shadow-' || id FROM shadow_pairs"
        )
        return _ids(self.home / "adapterloop.db", shipped)

    def callable(self, model: str) -> bool:
        """Whether a call to a model is answered."""
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        with self.live.http() as http:
            return http.post("/v1/chat/completions", json=body).status_code == 200

    def routable(self, model: str, seconds: float = 60) -> bool:
        """Whether a model becomes callable in time."""
        return bool(wait_for(lambda: self.callable(model), seconds))


def _ids(path: Path, query: str) -> set[str]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return {name for (name,) in connection.execute(query)}
