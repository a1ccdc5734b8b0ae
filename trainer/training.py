"""The training of a run, as a process that is watched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainer.errors import TrainingFailed
from trainer.runs import Run

_POLL_S = 0.5
_SAY_S = 20.0
_LAST_WORDS = 600


def run_training(run: Run, check: Callable[[], None], say: Callable[[str], None]) -> None:
    """Train until the run's adapter is whole; at once where it is.

    `check` may raise to end it: the process is stopped then, and goes on from its checkpoint when
    it is started again. Raises `TrainingFailed` with the process's last words.
    """
    if run.is_trained:
        return
    with run.log.open("ab") as log:
        # Offline: everything is at hand, and nothing may reach out of the machine.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "trainer.train", str(run.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
        try:
            _watch(process, run, check, say)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    if process.returncode != 0 or not run.is_trained:
        raise TrainingFailed(f"the training ended without an adapter: {_tail(run.log)}")


def _watch(
    process: subprocess.Popen[bytes],
    run: Run,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    said = time.monotonic()
    while process.poll() is None:
        check()
        if time.monotonic() - said >= _SAY_S:
            said = time.monotonic()
            say(progress_line(run))
        time.sleep(_POLL_S)


def progress_line(run: Run) -> str:
    """Say in a line how far a run's training is."""
    progress = run.read_progress()
    if not progress:
        return "training: loading the base model"
    losses = list(progress["losses"].values())
    return (
        f"training: step {progress['step']} of {progress['steps']}, loss {losses[-1]:.3f},"
        f" {progress['seconds']:.0f} s"
    )


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LAST_WORDS:].decode(errors="replace").strip()
