"""Which gateways live, as far as anybody could hear them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from gateway.registry.records import LIVE_GATEWAY_S, GatewayBeat

SILENCE_S = 3.0
"""Seconds between two readings after which the store counts as having been away."""


class Heartbeats(Protocol):
    """Where heartbeats are kept; blocks."""

    def live_gateways(self, max_age_s: float) -> tuple[GatewayBeat, ...]:
        """The gateways whose heartbeat is younger than that."""
        ...


class Hearing:
    """Tells silent gateways from those that nobody could hear.

    While the store was away no gateway could give a sign of life, and none is dead for it: none
    counts as dead before the store has been there for as long as a live one may be silent.
    """

    def __init__(self, store: Heartbeats, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._since = self._last = -inf

    def beats(self) -> tuple[GatewayBeat, ...]:
        """Give the heartbeats of those that are not dead. Blocks, and raises what the store does.

        One that fails counts as silence of the store.
        """
        now = self._clock()
        if now - self._last > SILENCE_S:
            self._since = now
        max_age_s = LIVE_GATEWAY_S if now - self._since > LIVE_GATEWAY_S else inf
        found = self._store.live_gateways(max_age_s)
        self._last = now
        return found
