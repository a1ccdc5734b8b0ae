"""Supervisor (supervisord.org) keeps the processes: its configuration, start and stop."""

from __future__ import annotations

import configparser
import contextlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from deploy.home import Home
from deploy.processes import MARK, ROLE, die_with_parent, find, stop

LOG_BYTES = "10MB"
LOG_BACKUPS = "3"
STOP_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """A process to keep alive. `priority` orders starts upwards and stops downwards."""

    name: str
    command: Sequence[str]
    priority: int
    stop_seconds: int = 10
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """How Supervisor sees a program; `pid` is 0 while it is not running."""

    name: str
    state: str
    detail: str
    pid: int


def render(home: Home, programs: Sequence[Program]) -> str:
    """Return the text of supervisord's configuration."""
    socket = home.socket("supervisor")
    document = configparser.RawConfigParser()
    document["unix_http_server"] = {"file": _escape(str(socket)), "chmod": "0700"}
    document["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    document["supervisorctl"] = {"serverurl": f"unix://{_escape(str(socket))}"}
    document["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _escape(str(home.logs / "supervisord.log")),
        "logfile_maxbytes": LOG_BYTES,
        "logfile_backups": LOG_BACKUPS,
        "pidfile": _escape(str(home.run / "supervisord.pid")),
        "childlogdir": _escape(str(home.logs)),
        "umask": "077",
        "identifier": "adapterloop",
    }
    for program in programs:
        document[f"program:{program.name}"] = _section(home, program)
    text = io.StringIO()
    document.write(text)
    return text.getvalue()


def _section(home: Home, program: Program) -> dict[str, str]:
    environment = {**program.environment, ROLE: program.name}
    return {
        "command": " ".join(_quote(part) for part in program.command),
        "environment": ",".join(f"{name}={_quote(value)}" for name, value in environment.items()),
        "priority": str(program.priority),
        "autostart": "true",
        "autorestart": "true",
        # However often a process fails, it is tried again: what broke it may pass.
        "startretries": "1000000",
        # A process that ends sooner is held back longer before each new try.
        "startsecs": "15",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": str(program.stop_seconds),
        "redirect_stderr": "true",
        # Supervisor expands this value twice.
        "stdout_logfile": _escape(_escape(str(home.logs / f"{program.name}.log"))),
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": LOG_BACKUPS,
    }


def _escape(value: str) -> str:
    return value.replace("%", "%%")


def _quote(value: str) -> str:
    escaped = _escape(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A running supervisord."""

    home: Home
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, home: Home, programs: Sequence[Program], inherited: Mapping[str, str]
    ) -> Supervisor:
        """Start supervisord in its own process group: a Ctrl-C reaches only this command."""
        configuration = home.run / "supervisord.conf"
        configuration.write_text(render(home, programs), encoding="utf-8")
        configuration.chmod(0o600)
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
            env={**inherited, MARK: str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            # This command is killed: the kernel tells supervisord, and it stops its programs.
            preexec_fn=die_with_parent,
        )
        return cls(home, process)

    def states(self) -> list[State]:
        """Return the programs' states, [] while supervisord does not answer yet."""
        return states(self.home)

    def stop(self) -> bool:
        """Stop every process of the home; True when none had to be killed."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_PATIENCE_S)
        return clear(self.home)


def clear(home: Home) -> bool:
    """End what is left of the processes of `home`; True when there was nothing left."""
    left = find(home)
    if left:
        stop(left, patience_s=5)
    return not left


def wait_until_gone(home: Home, patience_s: float = STOP_PATIENCE_S) -> bool:
    """Wait for processes that are already stopping; True when they went by themselves."""
    deadline = time.monotonic() + patience_s
    while find(home):
        if time.monotonic() > deadline:
            return clear(home)
        time.sleep(0.3)
    return True


def states(home: Home) -> list[State]:
    """Ask the supervisord of `home`; [] when it does not answer."""
    connection = _UnixConnection(home.socket("supervisor"))
    try:
        connection.request(
            "POST",
            "/RPC2",
            xmlrpc.client.dumps((), "supervisor.getAllProcessInfo"),
            {"content-type": "text/xml"},
        )
        (rows,), _ = xmlrpc.client.loads(connection.getresponse().read())
    except (OSError, xmlrpc.client.Error, http.client.HTTPException, ExpatError):
        return []
    finally:
        connection.close()
    answer: Any = rows
    return [
        State(str(row["name"]), str(row["statename"]), str(row["description"]), int(row["pid"]))
        for row in answer
    ]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 16384))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
