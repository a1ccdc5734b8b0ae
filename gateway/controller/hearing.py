"""How old a heartbeat may be before its gateway counts as dead."""

from __future__ import annotations

from math import inf

from gateway.registry.records import LIVE_GATEWAY_S

SILENCE_S = 3.0
"""Seconds between two readings after which the store counts as having been away."""


class Hearing:
    """Tells silent gateways from those that nobody could hear.

    While the store was away no gateway could give a sign of life, and none is dead for it: none
    counts as dead before the store has been there for as long as a live one may be silent.
    """

    def __init__(self) -> None:
        self._since = self._last = -inf

    def max_age_s(self, now: float) -> float:
        """Give the age up to which a heartbeat counts, in seconds; `heard` is to follow."""
        if now - self._last > SILENCE_S:
            self._since = now
        return LIVE_GATEWAY_S if now - self._since > LIVE_GATEWAY_S else inf

    def heard(self, now: float) -> None:
        """The heartbeats have been read."""
        self._last = now
