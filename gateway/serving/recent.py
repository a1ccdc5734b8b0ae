"""Counts of what happened lately."""

from __future__ import annotations

import math


class Recent:
    """Counts events of the last `span` seconds, and how many of them were marked.

    A sliding window of two buckets: the older one fades out linearly. Times are in seconds, on
    any clock that does not go back.
    """

    __slots__ = ("_before", "_first", "_marked", "_span", "_start", "_total")

    def __init__(self, span: float) -> None:
        self._span = span
        self._start = self._first = -math.inf
        self._total = self._marked = 0
        self._before = (0, 0)

    def add(self, now: float, *, marked: bool = False) -> None:
        """Count one event."""
        if now >= self._start + self._span:
            self._turn(now)
        self._total += 1
        self._marked += marked

    def read(self, now: float) -> tuple[float, float]:
        """Give how many events there were, and how many marked ones."""
        if now >= self._start + self._span:
            self._turn(now)
        left = 1 - (now - self._start) / self._span
        total, marked = self._before
        return self._total + left * total, self._marked + left * marked

    def per_second(self, now: float) -> float:
        """Give the rate of events, over the window or since the first of them."""
        total, _ = self.read(now)
        return total / min(self._span, max(1.0, now - self._first))

    def _turn(self, now: float) -> None:
        """Begin a new bucket; what is older than the last one counts no more."""
        following = now < self._start + 2 * self._span
        self._before = (self._total, self._marked) if following else (0, 0)
        self._start = self._start + self._span if following else now
        if not following:
            self._first = now
        self._total = self._marked = 0
