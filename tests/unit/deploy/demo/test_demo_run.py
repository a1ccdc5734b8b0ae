"""The demo plays on a gateway that is up, if its workers are what was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deploy.cli import cli
from deploy.config import Config
from deploy.demo import run
from deploy.demo.api import Gateway
from deploy.demo.report import Report
from deploy.demo.run import check_kind
from deploy.demo.story import Demo, DemoFailed
from deploy.health import Readiness
from deploy.home import Home, write_env
from deploy.processes import handling
from deploy.progress import Progress
from deploy.setup import Setup


class Up:
    """A gateway that is up, and its workers: kinds, and whether they are healthy."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.status = 200
        self.workers: dict[str, bool] = {}

    def readiness(self, host: str, port: int) -> Readiness:
        assert port == self.config.port
        return Readiness(self.status, "")

    def admin(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/workers")
        return {"data": [{"kind": kind, "healthy": up} for kind, up in self.workers.items()]}


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Up:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("ADAPTERLOOP_LOCAL_WORKER__KIND", "vllm")  # the option sets it
    write_env(Home(tmp_path).keys, {"ADAPTERLOOP_ADMIN_KEY": "sk"})
    made = Up(Config(home=tmp_path))
    monkeypatch.setattr(run, "readiness", made.readiness)
    monkeypatch.setattr(Gateway, "admin", lambda self, *asked: made.admin(*asked))
    return made


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ({"vllm": True}, "has workers of kind vllm, not llamacpp: stop it"),
        ({"vllm": True, "llamacpp": True}, "has workers of kind llamacpp, vllm, not llamacpp"),
        ({"vllm": False}, "has no worker that is up, not llamacpp"),
    ],
)
def test_a_gateway_with_other_workers_is_refused(
    up: Up, workers: dict[str, bool], words: str
) -> None:
    up.workers = workers
    with pytest.raises(DemoFailed, match=words):
        check_kind(up.config, "llamacpp")


def test_a_gateway_with_such_workers_is_taken_and_else_one_is_started(up: Up) -> None:
    up.workers = {"llamacpp": True, "vllm": False}
    check_kind(up.config, "llamacpp")
    up.status, up.workers = 503, {"vllm": True}
    check_kind(up.config, "llamacpp")


def test_the_command_refuses_before_it_sets_anything_up(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    up.workers = {"vllm": True}
    monkeypatch.setattr(Setup, "run", lambda *_: pytest.fail("set up"))
    result = CliRunner().invoke(cli, ["demo", "--worker", "llamacpp"])
    assert result.exit_code == 1
    assert "adapterloop demo: the gateway at http://127.0.0.1:8000" in result.output
    assert "or leave out --worker" in result.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_told_to_end_stops_the_gateway_that_it_started(
    up: Up, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    up.status = 503
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(_: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "60"], **options))
        up.status = 200
        return started[0]

    def play(_: Demo) -> Report:
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(Demo, "play", play)
    before = signal.getsignal(number)
    # Where whoever starts the tests ignores SIGINT, as shells do behind `&`, a child would too.
    with (
        handling([signal.SIGINT], signal.default_int_handler),
        pytest.raises(SystemExit) as ended,
    ):
        run.run(up.config, Progress(), quick=True, out=up.config.home / "demo.json")
    assert ended.value.code == 128 + number
    assert started[0].returncode == -signal.SIGINT
    assert signal.getsignal(number) is before
