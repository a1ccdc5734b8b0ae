"""`adapterloop up`: the whole loop on one machine, in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from deploy import shipped
from deploy.compose import LOCAL, database_url, gateway_settings, model_path, workers
from deploy.config import Config
from deploy.health import get, readiness
from deploy.home import Home
from deploy.keyring import ensure_keys
from deploy.llamacpp.server import NoServer, base_gguf
from deploy.migrations import upgrade
from deploy.model import DefaultModelUnavailable
from deploy.ports import Claims
from deploy.processes import find, handling
from deploy.progress import Progress
from deploy.setup import Setup
from deploy.supervisor import Program, State, Supervisor, states, tail, wait_until_gone
from deploy.welcome import welcome
from deploy.worker import start_hint
from gateway.registry.bases import stranded, told
from gateway.registry.service import Registry
from gateway.registry.snapshot import Version

POLL_S = 0.3
WATCH_S = 1.0


class CannotStart(Exception):
    """`up` cannot start here; the message is one line that says what to do."""


class Stopped(BaseException):
    """A signal asked this command to end."""


def up(config: Config, progress: Progress) -> None:
    """Run everything until a signal. Raises CannotStart, SetupFailed."""
    home = Home(config.home)
    home.create()
    with _signals(), _alone(home, config), Claims() as claims:
        if find(home):
            progress.say("stopping what an earlier run left")
            wait_until_gone(home)
        _claim_port(config, claims)
        Setup(progress, torch_index=config.torch_index).run(config)
        if not config.workers and config.local_worker.kind == "llamacpp":
            _check_llamacpp(config)
        elif not config.workers:
            _choose_worker_port(home, config, claims)
        registry, promote = _prepare(home, config, progress)
        try:
            _Run(home, config, progress, registry, promote).until_stopped()
        finally:
            registry.close()


def _prepare(home: Home, config: Config, progress: Progress) -> tuple[Registry, list[Version]]:
    upgrade(database_url(config))
    registry = Registry.from_settings(gateway_settings(config))
    registry.prepare()
    for line in told(stranded(registry.snapshot(), registry.base_models)):
        progress.say(line)
    _forget_workers(registry, config)
    ensure_keys(home, registry, base_url(config))
    return registry, shipped.register_examples(home, registry, progress)


def _forget_workers(registry: Registry, config: Config) -> None:
    """Forget the local worker of an earlier run that was of another kind."""
    kinds = {entry.name: entry.kind for entry in workers(config)}
    for name, spec in registry.snapshot().workers.items():
        if name.partition("@")[0] == LOCAL and kinds.get(LOCAL) != spec.kind:
            registry.remove_worker(name)


def _check_llamacpp(config: Config) -> None:
    """Look for what llama-server needs. Raises CannotStart."""
    try:
        base_gguf(config)
    except (NoServer, DefaultModelUnavailable) as error:
        raise CannotStart(str(error)) from None


@dataclass
class _Run:
    """One run: its processes, and what has been said of them."""

    home: Home
    config: Config
    progress: Progress
    registry: Registry
    promote: list[Version]
    _log_start: int = 0
    _failing: dict[str, float] = field(default_factory=dict)
    _pids: dict[str, int] = field(default_factory=dict)

    def until_stopped(self) -> None:
        self._log_start = _size(self._worker_log)
        supervisor = Supervisor.start(self.home, programs(self.config), self._environment())
        try:
            self.progress.say(f"started; logs are in {self.home.logs}")
            self._until_ready(supervisor)
            self._promote_examples()
            self.progress.say("ready")
            self._welcome()
            while True:
                time.sleep(WATCH_S)
                self._watch(supervisor)
        except Stopped:
            self.progress.say("stopping")
        finally:
            # From here on a second Ctrl-C must not leave processes behind.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            calm = supervisor.stop()
            self.progress.say("every process is stopped" + ("" if calm else " (some were killed)"))

    @property
    def _worker_log(self) -> Path:
        return self.home.logs / "worker.log"

    def _until_ready(self, supervisor: Supervisor) -> None:
        while True:
            now = readiness(loopback(self.config), self.config.port)
            if now.ready:
                return
            hint = ""
            if not self.config.workers and self.config.local_worker.kind == "vllm":
                hint = f" (worker: {start_hint(self._worker_log, self._log_start)})"
            self.progress.waiting(f"waiting: {now.reason}{hint}")
            time.sleep(POLL_S)
            self._watch(supervisor)

    def _promote_examples(self) -> None:
        done = [
            shipped.promote_when_verified(self.registry, version, self.progress)
            for version in self.promote
        ]
        if all(done):
            self.home.examples.touch()

    def _watch(self, supervisor: Supervisor) -> None:
        """Name programs that fail, with their last words. Raises CannotStart without Supervisor."""
        if supervisor.process.poll() is not None:
            log = self.home.logs / "supervisord.log"
            raise CannotStart(f"supervisord ended:\n{tail(log)}")
        for state in supervisor.states():
            if state.state in ("BACKOFF", "FATAL"):
                self._report(state)
            if state.pid and self._pids.setdefault(state.name, state.pid) != state.pid:
                self._pids[state.name] = state.pid
                self.progress.say(f"{state.name} ended and was started again")

    def _report(self, state: State) -> None:
        now = time.monotonic()
        if now - self._failing.get(state.name, -60.0) < 60.0:
            return
        self._failing[state.name] = now
        log = self.home.logs / f"{state.name}.log"
        self.progress.say(f"{state.name} keeps ending ({state.detail}); the end of {log}:")
        self.progress.plain(tail(log))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "ADAPTERLOOP_HOME": str(self.home.root), "PYTHONUNBUFFERED": "1"}

    def _welcome(self) -> None:
        has_ui = get(loopback(self.config), self.config.port, "/ui")[0] in (200, 302, 303, 307)
        models = [version.alias for version in self.promote] or self._stable()
        kind = self.config.local_worker.kind
        url, model = base_url(self.config), (models or ["base"])[0]
        self.progress.plain(welcome(self.home, url, model, has_ui=has_ui, kind=kind))

    def _stable(self) -> list[str]:
        aliases = self.registry.snapshot().aliases.values()
        return sorted(a.name for a in aliases if a.stable and not a.stable.is_base)


def programs(config: Config) -> list[Program]:
    """Return the processes of a home; they stop from the last to the first.

    So the gateway's last calls still find guards and worker.
    """
    command = [sys.executable, "-m", "deploy.cli"]
    tied = "--die-with-parent"
    own = [] if config.workers else [Program("worker", [*command, "worker", tied], 10)]
    return [
        *own,
        Program("guard", [*command, "guard", tied], 20),
        Program("controller", [*command, "controller", tied], 30),
        Program("gateway", [*command, "gateway", tied], 40, stop_seconds=8),
        *(
            [Program("trainer", [*command, "trainer", "work", tied], 50)]
            if model_path(config)
            else []
        ),
    ]


def base_url(config: Config) -> str:
    """Return the address that clients on this machine use."""
    host = loopback(config)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}"


def running_states(home: Home) -> list[State]:
    """Return the processes of the `up` that runs in `home`, [] where none runs."""
    return states(home)


def loopback(config: Config) -> str:
    """Return the host that clients on this machine use."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    with contextlib.suppress(Stopped), handling(_SIGNALS, stop):
        yield


@contextlib.contextmanager
def _alone(home: Home, config: Config) -> Iterator[None]:
    """Hold the home. Raises CannotStart where another `up` does."""
    with home.lock.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            with contextlib.suppress(ValueError):
                other = json.loads(lock.read())
                raise CannotStart(
                    f"{home.root} is already up at {other['url']} (process {other['pid']});"
                    " stop that one, or set ADAPTERLOOP_HOME and ADAPTERLOOP_PORT for a second"
                ) from None
            raise CannotStart(f"{home.root} is already up") from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "url": base_url(config)}))
        lock.flush()
        yield


def _claim_port(config: Config, claims: Claims) -> None:
    if not claims.take(config.host, config.port):
        raise CannotStart(
            f"port {config.port} is in use on {config.host}; set ADAPTERLOOP_PORT to a free one"
        )


def _choose_worker_port(home: Home, config: Config, claims: Claims) -> None:
    """Remember a free port for the worker: the one of last time, the configured one, or any."""
    remembered = _read_int(home.worker_port)
    for port in (remembered, config.local_worker.port):
        if port and port != config.port and claims.take("127.0.0.1", port):
            break
    else:
        port = claims.any("127.0.0.1")
    home.worker_port.write_text(str(port), encoding="utf-8")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
