"""How late this machine runs what is due: what a promise in milliseconds cannot be blamed for."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Self

TICK_S = 0.01


class Lateness:
    """Sleeps again and again, and remembers for some seconds how much too long each sleep was."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._ticks: deque[float] = deque(maxlen=round(seconds / TICK_S))
        self._ended = threading.Event()
        self._began = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def worst(self) -> float:
        """The most seconds that a sleep was too long of late, the present one included."""
        now = time.monotonic() - self._began - TICK_S
        return max(0.0, now, *self._ticks)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._began = time.monotonic()
            time.sleep(TICK_S)
            self._ticks.append(time.monotonic() - self._began - TICK_S)
