"""The processes of a home: found by a mark in their environment, tied to who started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType

import psutil

from deploy.home import Home

MARK = "ADAPTERLOOP_SUPERVISED_HOME"
ROLE = "ADAPTERLOOP_SUPERVISED_ROLE"
_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to send `number` to this process when its parent dies; survives exec.

    Linux only; elsewhere the next `up` clears what is left.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def handling(
    numbers: Iterable[signal.Signals], stop: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Have `stop` called on these signals, and what was before again afterwards."""
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find(home: Home, role: str | None = None) -> list[psutil.Process]:
    """Return the living processes of `home` (those of one role), without this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
        except (psutil.Error, OSError):
            continue
        if environment.get(MARK) == str(home.root) and role in (None, environment.get(ROLE)):
            found.append(process)
    return found


def stop(processes: Sequence[psutil.Process], patience_s: float) -> None:
    """End `processes`: ask, wait up to `patience_s`, then kill. Returns when they are gone."""
    for process in processes:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(list(processes), timeout=patience_s)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
