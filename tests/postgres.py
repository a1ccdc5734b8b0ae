"""PostgreSQL for tests: servers of our own on Unix sockets, where its programs are installed."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Self

_PROGRAM = next(
    (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))),
    shutil.which("pg_ctl"),
)
INSTALLED = _PROGRAM is not None


class PostgresServer:
    """A server in a new folder, which tests may stop and start. Crashes need not be survived."""

    def __init__(self, *, durable: bool = False) -> None:
        """Make the database files; with `durable` as in production, else as quick as can be."""
        # Not in pytest's own folder: that one is closed to the user whom the server runs as.
        self._base = Path(tempfile.mkdtemp(prefix="pg-"))
        self._base.chmod(0o755)
        self._folder = self._base / "server"
        self._folder.mkdir(mode=0o755)
        self._quick = "" if durable else " -c fsync=off -c synchronous_commit=off"
        # PostgreSQL refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            os.chown(self._folder, pwd.getpwnam("postgres").pw_uid, -1)
        made = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", str(self._folder / "data"))
        self._run("initdb", *(() if durable else ("--no-sync",)), *made)

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def start(self) -> Self:
        """Start it and wait until it answers."""
        options = f"-k {self._folder} -c listen_addresses=''{self._quick}"
        self._control("-o", options, "-l", str(self._folder / "log"), "start")
        return self

    def as_standby(self) -> Self:
        """Let it only be read from its next start on."""
        mark = self._folder / "data" / "standby.signal"
        mark.touch()
        if self._as:
            os.chown(mark, pwd.getpwnam("postgres").pw_uid, -1)
        return self

    def stop(self) -> None:
        """Stop it as a crash would."""
        self._control("-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self._base, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-t", "200", "-s", "-D", str(self._folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        assert _PROGRAM is not None
        subprocess.run(
            [*self._as, str(Path(_PROGRAM).resolve().with_name(program)), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=240,  # of pytest's 300
        )


@cache
def shared_server() -> PostgresServer:
    """The server that tests share, each with databases of its own; it ends with the process."""
    server = PostgresServer().start()
    atexit.register(server.remove)
    return server
