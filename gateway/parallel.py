"""How many calls of a key run at once in this process, and its bound."""

from __future__ import annotations

from gateway.errors import ParallelExceeded
from gateway.registry.snapshot import Key


class Parallel:
    """Counts calls under way by account: a key with those that it was rotated from and to.

    All counting happens on the event loop, so it takes no lock. `most` holds for keys that have no
    bound of their own, but for those for evaluation; None is no bound.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._running: dict[int, int] = {}

    def enter(self, key: Key) -> None:
        """Count a call, to be taken off by `leave`. Raises `ParallelExceeded`, and counts none."""
        running = self._running.get(key.account, 0)
        most = key.limits.max_parallel
        if most is None and key.purpose != "evaluation":
            most = self._most
        if most is not None and running >= most:
            raise ParallelExceeded(
                f"This key may have {most} calls at once, and as many are under way: try again when"
                " one of them has ended."
            )
        self._running[key.account] = running + 1

    def leave(self, key: Key) -> None:
        """Take a call off that was counted."""
        left = self._running[key.account] - 1
        if left:
            self._running[key.account] = left
        else:
            del self._running[key.account]  # else every key that ever called stays here

    def running(self, account: int) -> int:
        """Give an account's calls under way."""
        return self._running.get(account, 0)
