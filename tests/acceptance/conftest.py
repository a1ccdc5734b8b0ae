"""Runs the real thing: `adapterloop up`, once for all tests with vLLM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from tests.stub.server import free_port

from .live import Live, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
READY_S = 600
# A second base model, of which only some tests have a worker.
SMALL, SMALL_MODEL = "small", "SmolLM2-135M-Instruct-4bit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("acceptance")
            item.add_marker(pytest.mark.timeout(900))


def read_keys(home: Path) -> dict[str, str]:
    """The lines of keys.env."""
    path = home / "keys.env"
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def processes_of(home: Path) -> list[psutil.Process]:
    """Living processes that were started for this home."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = str(home) in process.environ().get("ADAPTERLOOP_HOME", "")
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def adapterloop() -> list[str]:
    """The command, as installed beside this interpreter or from the tree."""
    script = shutil.which("adapterloop", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-c", "from deploy.cli import main; main()"]


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def knows(live: Live) -> bool:
    """Whether the example adapters are callable."""
    with live.client() as client:
        names = {model.id for model in client.models.list()}
    return {*live.aliases, "base"} <= names


def environment_of(home: Path, port: int, **more: str) -> dict[str, str]:
    """This environment without any configuration but that of a home and a port."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("ADAPTERLOOP_")
    }
    return kept | {"ADAPTERLOOP_HOME": str(home), "ADAPTERLOOP_PORT": str(port)} | more


@contextmanager
def running(home: Path, *arguments: str, **variables: str) -> Iterator[Live]:
    """`adapterloop up` in a fresh home; ended at the end, with nothing left running."""
    port = free_port()
    log = home.parent / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [*adapterloop(), "up", *arguments],
            cwd=REPOSITORY,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment_of(home, port, **variables),
            start_new_session=True,
        )
    try:
        root = f"http://127.0.0.1:{port}"
        ready = wait_for(lambda: up.poll() is not None or is_ready(root), READY_S, 0.5)
        assert ready, "not ready in time"
        assert up.poll() is None, f"not ready:\n{log.read_text()[-4000:]}"
        keys = read_keys(home)
        made = Live(
            base_url=keys["OPENAI_BASE_URL"],
            api_key=keys["OPENAI_API_KEY"],
            admin_key=keys["ADAPTERLOOP_ADMIN_KEY"],
            reviewer_key=keys["ADAPTERLOOP_REVIEWER_KEY"],
            home=home,
        )
        assert made.root == root
        assert (home / "keys.env").stat().st_mode & 0o777 == 0o600
        assert wait_for(lambda: knows(made), READY_S, 1), log.read_text()[-4000:]
        yield made
    finally:
        if up.poll() is None:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=120)
        left = processes_of(home)
        for process in left:
            process.kill()
    assert left == []


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The whole loop with vLLM."""
    bases = json.dumps([{"name": SMALL, "model": SMALL_MODEL}])
    home = tmp_path_factory.mktemp("live") / "home"
    with running(home, ADAPTERLOOP_BASES=bases) as live:
        yield live


@pytest.fixture(scope="session")
def narrow(live: Live) -> Iterator[Live]:
    """A second gateway on the same store and worker, which gives the worker two calls at once.

    Four more may wait. Rollouts that it begins go on after three answers at each step.
    """
    port = free_port()
    settings = {
        "ADAPTERLOOP_QUEUE__PER_WORKER": "2",
        "ADAPTERLOOP_QUEUE__SIZE": "4",
        "ADAPTERLOOP_QUEUE__WAIT": "120",
        "ADAPTERLOOP_ROLLOUT__EVIDENCE": "answers",
        "ADAPTERLOOP_ROLLOUT__ANSWERS": "3",
    }
    log = live.home.parent / "narrow.log"
    with log.open("wb") as out:
        gateway = subprocess.Popen(
            [*adapterloop(), "gateway"],
            cwd=REPOSITORY,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment_of(live.home, port, **settings),
        )
    made = replace(live, base_url=f"http://127.0.0.1:{port}/v1")
    try:
        wait_for(lambda: gateway.poll() is not None or is_ready(made.root), 120, 0.2)
        assert is_ready(made.root), log.read_text()[-4000:]
        yield made
    finally:
        gateway.terminate()
        gateway.wait(timeout=120)
