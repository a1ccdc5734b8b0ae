"""Runs the demo: on the gateway of this home where one is up, else on one that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from deploy.config import Config
from deploy.demo.api import Gateway
from deploy.demo.report import Report
from deploy.demo.story import Demo, DemoFailed
from deploy.health import readiness
from deploy.home import Home, read_env
from deploy.processes import handling
from deploy.progress import Progress
from deploy.up import base_url, loopback

OUT = Path("build") / "demo.json"
_START_S = 900.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# A demo cannot wait for as many answers as a night in production can.
_SETTINGS = {
    "ADAPTERLOOP_ROLLOUT__EVIDENCE": "answers",
    "ADAPTERLOOP_ROLLOUT__ANSWERS": "30",
    "ADAPTERLOOP_ROLLOUT__STEPS": "[0.3]",
}


def run(
    config: Config, progress: Progress, *, quick: bool, control: bool = False, out: Path = OUT
) -> Report:
    """Play the demo, or its control, and write the figures. Raises DemoFailed, CannotStart."""
    home = Home(config.home)
    started = time.monotonic()
    with _gateway_up(config, home, progress) as url:
        demo = Demo(Gateway(url, read_env(home.keys)), home.runs, progress, quick=quick)
        demo.report.seconds["start"] = round(time.monotonic() - started, 1)
        try:
            return demo.control() if control else demo.play()
        finally:
            demo.report.write(out)


def check_kind(config: Config, asked: str) -> None:
    """Refuse to play on a gateway that is up with workers of another kind. Raises DemoFailed."""
    home, url = Home(config.home), base_url(config)
    if not _is_up(config, home):
        return
    told = Gateway(url, read_env(home.keys)).admin("GET", "/workers")["data"]
    kinds = {worker["kind"] for worker in told if worker["healthy"]}
    if kinds != {asked}:
        has = f"workers of kind {', '.join(sorted(kinds))}" if kinds else "no worker that is up"
        raise DemoFailed(
            f"the gateway at {url} has {has}, not {asked}: stop it, so that the demo starts one"
            f" with {asked}, or leave out --worker"
        )


def _is_up(config: Config, home: Home) -> bool:
    return home.keys.exists() and readiness(loopback(config), config.port).ready


@contextlib.contextmanager
def _gateway_up(config: Config, home: Home, progress: Progress) -> Iterator[str]:
    host, url = loopback(config), base_url(config)
    if _is_up(config, home):
        progress.say(f"using the gateway at {url}")
        yield url
        return
    home.create()
    if not home.database.exists():
        # The demo trains what `up` would otherwise bring along.
        home.examples.touch()
    log = home.logs / "up.log"
    progress.say(f"starting the gateway, worker, guards and trainer; log: {log}")
    with handling(_SIGNALS, _end), log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "up"],
            env={**os.environ, **_SETTINGS, "ADAPTERLOOP_HOME": str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            process_group=0,
        )
        try:
            _until_ready(process, host, config.port, log, progress)
            yield url
        finally:
            progress.say("stopping")
            process.send_signal(signal.SIGINT)
            process.wait()


def _end(number: int, _frame: FrameType | None) -> None:
    """End in order, as Ctrl-C does: the gateway that was started is stopped too."""
    sys.exit(128 + number)


def _until_ready(
    process: subprocess.Popen[bytes], host: str, port: int, log: Path, progress: Progress
) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        now = readiness(host, port)
        if now.ready:
            return
        if process.poll() is not None:
            words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise DemoFailed(words[-1] if words else "`adapterloop up` ended")
        if time.monotonic() > deadline:
            raise DemoFailed(f"not ready after {_START_S:.0f} s: {now.reason}")
        progress.waiting(f"waiting: {now.reason}")
        time.sleep(1)
