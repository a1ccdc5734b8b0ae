"""How likely a version's answers are wrong, judged by how sure it was of them.

Each version has a calibration of its own, fitted to its golden answers when the gate judged it, and
frozen in the rollout's record: being surer is no merit of a version, being right is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from feedback.tables import CAPTURES
from gateway.registry.snapshot import Version
from gateway.rollout.measures import USER, Since, measures
from gateway.rollout.rule import Measure
from gateway.rollout.sequential import Arm
from gateway.settings import RolloutSettings

_BINS = 50.0
"""Bins of confidence to a nat: as fine as any difference that matters."""


class Calibration(msgspec.Struct, frozen=True):
    """Chance that an answer is wrong: `1 / (1 + exp(slope * confidence + intercept))`.

    `confidence` in nats a token; fitted to so many `items`.
    """

    slope: float
    intercept: float
    items: int

    def risk(self, confidence: float) -> float:
        """Give the chance that an answer of this mean log-probability is wrong."""
        return 1 / (1 + math.exp(max(-30.0, min(30.0, self.slope * confidence + self.intercept))))


class Calibrations(msgspec.Struct, frozen=True):
    """Those of a rollout's candidate and of the version that it was judged against."""

    candidate: Calibration
    against: Calibration

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> Calibrations | None:
        """Read them from a rollout's record or a gate report.

        None where either is missing, or where sureness says nothing of a version's answers: its
        risk is then the golden set's, whatever it answers.
        """
        try:
            found = msgspec.convert(detail.get("calibration"), cls)
        except msgspec.ValidationError:
            return None
        useful = all(one.slope > 0 and one.items > 0 for one in (found.candidate, found.against))
        return found if useful else None


def risk(
    connection: Connection,
    since: Since,
    candidate: Version,
    stable: Version,
    calibrations: Calibrations,
    margin: float,
) -> Measure:
    """Measure the mean risk of both versions' answers, by user.

    What so few golden items leave open stays open however many answers come: it may show that a
    candidate is far worse, and no promotion waits for it.
    """
    of = {candidate.id: calibrations.candidate, stable.id: calibrations.against}
    bin_ = func.round(CAPTURES.c.confidence_mean * _BINS).label("bin")
    query = (
        select(CAPTURES.c.version_id, USER.label("user"), bin_, func.count().label("answers"))
        .where(
            since.of(candidate, stable),
            CAPTURES.c.outcome == "ok",
            CAPTURES.c.confidence_mean.is_not(None),
        )
        .group_by(CAPTURES.c.version_id, USER, bin_)
    )
    sums: dict[tuple[int, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for version_id, user, place, answers in connection.execute(query):
        calls, total = sums[version_id, user]
        value = of[version_id].risk(float(place) / _BINS)
        sums[version_id, user] = calls + answers, total + answers * value
    arms = {
        version_id: Arm.of(one for (at, _), one in sums.items() if at == version_id)
        for version_id in of
    }
    new, old = arms[candidate.id], arms[stable.id]
    noise = sum(
        arm.mean * (1 - arm.mean) / one.items
        for arm, one in zip((new, old), of.values(), strict=True)
    )
    return Measure("risks", new, old, margin, rate=False, noise=noise, required=False)


def weighed(
    connection: Connection,
    since: Since,
    candidate: Version,
    stable: Version,
    settings: RolloutSettings,
    detail: Mapping[str, Any],
) -> list[Measure]:
    """Give all that a rollout is judged by; `detail` is its record's, with the calibrations."""
    found = measures(connection, since, candidate, stable, settings)
    calibrations = Calibrations.of(detail)
    if calibrations is not None:
        found.append(risk(connection, since, candidate, stable, calibrations, settings.margin))
    return found
