"""PostgreSQL stopped under load: no answer fails, nothing is lost."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from feedback.db import make_engine, reading
from feedback.tables import CAPTURES, FEEDBACK
from tests.acceptance.live import wait_for
from tests.unit.gateway.registry.stores import POSTGRES

from .conftest import MakeStack

BIN = next(
    (path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))),
    Path(shutil.which("pg_ctl") or "/nowhere/pg_ctl").resolve().parent,
)
pytestmark = [
    pytest.mark.skipif(
        POSTGRES is None or not (BIN / "initdb").exists(),
        reason="needs ADAPTERLOOP_TEST_POSTGRES and PostgreSQL's programs",
    ),
    pytest.mark.timeout(180),
]
AWAY = float(os.environ.get("ADAPTERLOOP_TEST_AWAY_S", "10"))


class Server:
    """A PostgreSQL server of its own, which tests may stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o755)
        # PostgreSQL refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        self._run(
            "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", str(folder / "data")
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses=''"
        log = str(self.folder / "log")
        self._control("-o", options, "-l", log, "start")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-s", "-D", str(self.folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as, str(BIN / program), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=60,
        )


@pytest.fixture
def server() -> Iterator[Server]:
    # Not in pytest's own folder: that one is closed to the user whom the server runs as.
    with tempfile.TemporaryDirectory(prefix="pg-") as base:
        Path(base).chmod(0o755)
        server = Server(Path(base) / "server")
        server.start()
        yield server
        server.stop()


def test_stopped_under_load(make_stack: MakeStack, server: Server) -> None:
    stack = make_stack(database_url=server.url)
    stack.publish("support", stack.source("support-1", seed=1))
    ids: list[str] = []
    flags: list[str] = []

    def load(http: httpx.Client, seconds: float) -> None:
        end = time.monotonic() + seconds
        body = {"model": "support", "messages": [{"role": "user", "content": "Hello"}]}
        while time.monotonic() < end:
            one = http.post("/v1/chat/completions", json=body)
            assert one.status_code == 200, one.text
            ids.append(one.json()["id"])
            said = http.post("/v1/feedback", json={"response_id": ids[-1], "rating": "down"})
            assert said.status_code == 200, said.text
            flags.append(said.json()["id"])

    with stack.live.http() as http:
        load(http, 1)
        server.stop()
        load(http, AWAY)
        server.start()
        load(http, 1)
        last = f"/v1/feedback/{ids[-1]}"
        assert wait_for(lambda: http.get(last).json().get("status") == "linked", 30)
    stack.gateway.stop()
    engine = make_engine(server.url)
    with reading(engine) as connection:
        kept = set(connection.scalars(select(CAPTURES.c.id)))
        said = list(connection.scalars(select(FEEDBACK.c.id)))
        status = set(connection.scalars(select(FEEDBACK.c.status)))
    engine.dispose()
    assert set(ids) <= kept
    assert sorted(said) == sorted(flags)
    assert status == {"linked"}
