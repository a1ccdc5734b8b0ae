"""What the page of rollouts shows: both versions side by side, over time, and the record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from feedback.db import reading
from gateway.registry.records import AliasMove
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias
from gateway.rollout.measures import Since, measures, series
from gateway.rollout.rule import Measure
from gateway.settings import RolloutSettings

WIDTH, HEIGHT = 560, 120
_POINTS = 80
_FEWEST = 5
"""Answers below which a running mean only jumps about."""


@dataclass(frozen=True, slots=True)
class Line:
    """A measure of both versions, in words; `state` is worse, fine or open."""

    name: str
    candidate: str
    stable: str
    difference: str
    bounds: str
    state: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Running means of both versions as SVG points, with the top of the axis in words."""

    name: str
    top: str
    candidate: str
    stable: str


@dataclass(frozen=True, slots=True)
class Shown:
    """An alias with its record, newest first; a rollout's figures where one is under way."""

    alias: Alias
    moves: Sequence[AliasMove]
    is_driven: bool = False
    calls: tuple[int, int] = (0, 0)
    lines: Sequence[Line] = ()
    plots: Sequence[Plot] = ()


def look(
    registry: Registry, engine: Engine, settings: RolloutSettings, aliases: Sequence[Alias]
) -> list[Shown]:
    """Give what is to be shown of aliases, those with a rollout first. Blocks: use threads."""
    ordered = sorted(aliases, key=lambda alias: (alias.candidate is None, alias.name))
    return [_look_at(registry, engine, settings, alias) for alias in ordered]


def _look_at(registry: Registry, engine: Engine, settings: RolloutSettings, alias: Alias) -> Shown:
    moves = list(reversed(registry.describe(alias.tenant, alias.name).moves))[:12]
    candidate, stable = alias.candidate, alias.stable
    if candidate is None or stable is None or not moves:
        return Shown(alias, moves)
    newest = moves[0]
    since = Since(alias, float(newest.detail.get("since", newest.at)))
    with reading(engine) as connection:
        found = measures(connection, since, candidate, stable, settings)
        answers = series(connection, since, candidate, stable)
    alpha = float(newest.detail.get("alpha", settings.alpha))
    flags = next(one for one in found if one.name == "flags")
    of_candidate = [answer for answer in answers if answer[0] == candidate.id]
    of_stable = [answer for answer in answers if answer[0] == stable.id]
    return Shown(
        alias,
        moves,
        newest.is_driven,
        (flags.candidate.calls, flags.stable.calls),
        [_line(one, alpha, len(found)) for one in found],
        [
            _plot("flags, share of answers so far", of_candidate, of_stable, 2),
            _plot("seconds an answer, mean so far", of_candidate, of_stable, 3),
        ],
    )


def _line(measure: Measure, alpha: float, many: int) -> Line:
    evidence = measure.evidence()
    low, high = evidence.bounds(alpha, measure.margin)
    state = "open"
    if evidence.worse >= many / alpha:
        state = "worse"
    elif evidence.fine >= 1 / alpha:
        state = "fine"
    scale, unit = (100, "%") if measure.rate else (1, " s")

    def said(value: float, sign: str = "") -> str:
        return f"{scale * value:{sign}.2f}{unit}"

    known = math.isfinite(low)
    return Line(
        measure.name,
        said(measure.candidate.mean),
        said(measure.stable.mean),
        said(evidence.difference, "+"),
        f"{said(low, '+')} to {said(high, '+')}" if known else "too few users yet",
        state,
    )


Answer = tuple[int, float, bool, float]


def _plot(name: str, candidate: Sequence[Answer], stable: Sequence[Answer], field: int) -> Plot:
    times = [answer[1] for answer in (*candidate, *stable)]
    first, last = min(times, default=0.0), max(times, default=1.0)
    both = [_running([(a[1], float(a[field])) for a in answers]) for answers in (candidate, stable)]
    top = max((value for points in both for _, value in points), default=0.0) or 1.0
    drawn = [
        " ".join(
            f"{WIDTH * (at - first) / ((last - first) or 1):.1f},{HEIGHT * (1 - value / top):.1f}"
            for at, value in points
        )
        for points in both
    ]
    return Plot(name, f"{100 * top:.1f}%" if field == 2 else f"{top:.2f} s", *drawn)


def _running(answers: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Give running means at about `_POINTS` moments."""
    every = max(1, len(answers) // _POINTS)
    total, points = 0.0, []
    for number, (at, value) in enumerate(answers, 1):
        total += value
        if number >= _FEWEST and (number % every == 0 or number == len(answers)):
            points.append((at, total / number))
    return points


def told(move: AliasMove) -> str:
    """Say in words what a line of the record did."""
    share: Any = move.detail.get("weight")
    match move.kind:
        case "rollout":
            return f"version {move.to_version} gets {100 * float(share or 0):g}% of the callers"
        case "rollback":
            return f"rolled back from version {move.from_version} to {move.to_version}"
        case _:
            return f"version {move.to_version} is promoted"
