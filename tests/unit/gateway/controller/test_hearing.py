"""When a silent gateway counts as dead."""

from __future__ import annotations

from math import inf

import pytest

from gateway.controller.hearing import Hearing
from gateway.errors import StoreUnavailable
from gateway.registry.records import LIVE_GATEWAY_S, GatewayBeat


class Wall:
    """A clock moved by hand, and a store that notes which age counted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.down = False
        self.ages: list[float] = []
        self.hearing = Hearing(self, lambda: self.now)

    def live_gateways(self, max_age_s: float) -> tuple[GatewayBeat, ...]:
        if self.down:
            raise StoreUnavailable
        self.ages.append(max_age_s)
        return ()

    def read_at(self, *moments: float) -> list[float]:
        """The age that counts at each reading."""
        self.ages = []
        for self.now in moments:
            self.hearing.beats()
        return self.ages


def test_every_gateway_gets_its_time_to_be_heard() -> None:
    seconds = [float(second) for second in range(12)]
    assert Wall().read_at(*seconds) == [inf] * 9 + [LIVE_GATEWAY_S] * 3


def test_a_store_that_was_away_begins_it_anew() -> None:
    wall = Wall()
    wall.read_at(*(float(second) for second in range(12)))
    wall.now, wall.down = 12.0, True
    with pytest.raises(StoreUnavailable):
        wall.hearing.beats()
    wall.down = False
    assert wall.read_at(71.0, 73.0, 75.0, 77.0, 79.0, 80.0)[-2:] == [inf, LIVE_GATEWAY_S]
