"""What a person sees while something takes its time."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

QUIET_SECONDS = 15.0


@dataclass
class Progress:
    """Lines with the seconds since the start; a waiting line is rewritten in place on a terminal.

    Elsewhere (a log, a pipe) a waiting line appears when it changes and every 15 s.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _start: float = field(default_factory=time.monotonic)
    _shown: str = ""
    _shown_at: float = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        self._write(f"[{self._elapsed()}] {text}\n")

    def plain(self, text: str = "") -> None:
        """Print text without the clock."""
        self.clear()
        self._write(f"{text}\n")

    def waiting(self, text: str) -> None:
        """Show what is waited for."""
        now = time.monotonic()
        if self.stream.isatty():
            self._write(f"\r\033[K[{self._elapsed()}] {text}"[:160])
        elif text != self._shown or now - self._shown_at >= QUIET_SECONDS:
            self._write(f"[{self._elapsed()}] {text}\n")
            self._shown_at = now
        self._shown = text

    def ticking(self, text: str) -> None:
        """Show a figure that changes all the time; in a log it appears every 15 s."""
        if self.stream.isatty() or time.monotonic() - self._shown_at >= QUIET_SECONDS:
            self.waiting(text)

    def clear(self) -> None:
        """Take a waiting line away."""
        if self._shown and self.stream.isatty():
            self._write("\r\033[K")
        self._shown = ""

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._start:5.1f} s"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
