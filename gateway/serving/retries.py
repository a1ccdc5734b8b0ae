"""How many calls may be tried again, so that a fleet in trouble does not get twice the calls."""

from __future__ import annotations

from gateway.serving.recent import Recent

SHARE, FLOOR, SPAN_S = 0.2, 5.0, 10.0


class RetryBudget:
    """Allows retries of a fifth of the last ten seconds' calls, and five a second in any case.

    Where few calls come, the floor is what counts: they load no fleet.
    """

    def __init__(self) -> None:
        self.made = 0
        self.refused = 0
        self._tries = Recent(SPAN_S)
        self._retries = Recent(SPAN_S)

    def tried(self, now: float) -> None:
        """Count a call that goes to a worker, a retry too."""
        self._tries.add(now)

    def take(self, now: float) -> bool:
        """Say whether a call may be tried again, and count it if so."""
        tries, _ = self._tries.read(now)
        retries, _ = self._retries.read(now)
        if retries + 1 > SHARE * max(0.0, tries - retries) + FLOOR * SPAN_S:
            self.refused += 1
            return False
        self._retries.add(now)
        self.made += 1
        return True
