"""When a silent gateway counts as dead."""

from __future__ import annotations

from math import inf

from gateway.controller.hearing import Hearing
from gateway.registry.records import LIVE_GATEWAY_S


def ages(hearing: Hearing, *moments: float) -> list[float]:
    """The age that counts at each reading."""
    found = []
    for now in moments:
        found.append(hearing.max_age_s(now))
        hearing.heard(now)
    return found


def test_every_gateway_gets_its_time_to_be_heard() -> None:
    seconds = [float(second) for second in range(12)]
    assert ages(Hearing(), *seconds) == [inf] * 9 + [LIVE_GATEWAY_S] * 3


def test_a_store_that_was_away_begins_it_anew() -> None:
    hearing = Hearing()
    ages(hearing, *(float(second) for second in range(12)))
    hearing.max_age_s(12.0)  # this reading failed
    assert ages(hearing, 71.0, 73.0, 75.0, 77.0, 79.0, 80.0)[-2:] == [inf, LIVE_GATEWAY_S]
