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
from gateway.rollout import shadow
from gateway.rollout.measures import Since, series
from gateway.rollout.risk import weighed
from gateway.rollout.rule import Measure, Plan, standing
from gateway.rollout.sequential import Evidence
from gateway.settings import RolloutSettings

WIDTH, HEIGHT = 560, 120
_POINTS = 80
_MOVES = 12
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
    """An alias with its record, newest first; a rollout's figures where one is under way.

    `about` says in words what they rest on.
    """

    alias: Alias
    moves: Sequence[AliasMove]
    is_driven: bool = False
    about: str = ""
    lines: Sequence[Line] = ()
    plots: Sequence[Plot] = ()


def look(
    registry: Registry, engine: Engine, settings: RolloutSettings, aliases: Sequence[Alias]
) -> list[Shown]:
    """Give what is to be shown of aliases, those with a rollout first. Blocks: use threads."""
    ordered = sorted(aliases, key=lambda alias: (alias.candidate is None, alias.name))
    return [_look_at(registry, engine, settings, alias) for alias in ordered]


def _look_at(registry: Registry, engine: Engine, settings: RolloutSettings, alias: Alias) -> Shown:
    moves = registry.latest_moves(alias.tenant, alias.name, _MOVES)
    candidate, stable = alias.candidate, alias.stable
    if candidate is None or stable is None or not moves:
        return Shown(alias, moves)
    detail = moves[0].detail
    plan = Plan.of({"alpha": settings.alpha, **detail})
    if alias.shadow:
        pairs = shadow.Since(alias, moves[0].at, candidate, stable)
        return _shadow(engine, settings, pairs, moves, plan)
    since = Since(alias, moves[0].at)
    with reading(engine) as connection:
        found = weighed(connection, since, candidate, stable, settings, detail)
        answers = series(connection, since, candidate, stable)
    flags = next(one for one in found if one.name == "flags")
    both = [[a for a in answers if a.version_id == one.id] for one in (candidate, stable)]
    flagged = [[(a.at, float(a.flagged)) for a in of] for of in both]
    seconds = [[(a.at, a.seconds) for a in of] for of in both]
    return Shown(
        alias,
        moves,
        moves[0].is_driven,
        f"{flags.candidate.calls} answers of the candidate, {flags.stable.calls} of the stable"
        " version since this step began.",
        [_line(*one, plan.alpha) for one in standing(found, plan, int(detail.get("step", 0)))],
        [
            _plot("flags, share of answers so far", "{:.1%}", flagged),
            _plot("seconds an answer, mean so far", "{:.2f} s", seconds),
        ],
    )


def _shadow(
    engine: Engine,
    settings: RolloutSettings,
    since: shadow.Since,
    moves: Sequence[AliasMove],
    plan: Plan,
) -> Shown:
    """Show what is known of a candidate that only gets copies."""
    with reading(engine) as connection:
        found = shadow.pairs(connection, since, settings)
        latest = shadow.series(connection, since)
    wanted = moves[0].detail.get("shadow", {}).get("answers", 0)
    about = [f"{found.count} of {wanted} calls were put to both versions."]
    if found.same is not None:
        about.append(f"{found.same:.0%} of the answers have the same text.")
    if found.surer is not None:
        about.append(f"Mean logprob of a token, candidate less stable: {found.surer:+.3f}.")
    seconds = [
        [(pair.at, pair.seconds[of]) for pair in latest if not any(pair.failed)] for of in (0, 1)
    ]
    errors = [[(pair.at, float(pair.failed[of])) for pair in latest] for of in (0, 1)]
    return Shown(
        since.alias,
        moves,
        moves[0].is_driven,
        " ".join(about),
        [_line(*one, plan.alpha) for one in standing(found.measures, plan, shadow.STEP)],
        [
            _plot("errors, share of calls so far", "{:.1%}", errors),
            _plot("seconds an answer, mean so far", "{:.2f} s", seconds),
        ],
    )


def _line(measure: Measure, evidence: Evidence, state: str, alpha: float) -> Line:
    low, high = evidence.bounds(alpha, measure.margin)
    form = f"{{:.2f}}{measure.unit}" if measure.unit else "{:.2%}"
    signed = form.replace(":", ":+")
    known = math.isfinite(low)
    return Line(
        measure.name,
        form.format(measure.candidate.mean),
        form.format(measure.stable.mean),
        signed.format(evidence.difference),
        f"{signed.format(low)} to {signed.format(high)}" if known else "too few users yet",
        state,
    )


def _plot(name: str, form: str, both: Sequence[Sequence[tuple[float, float]]]) -> Plot:
    """Draw candidate and stable; `form` says the top of the axis."""
    times = [at for answers in both for at, _ in answers]
    first, last = min(times, default=0.0), max(times, default=1.0)
    means = [_running(answers) for answers in both]
    top = max((value for points in means for _, value in points), default=0.0) or 1.0
    candidate, stable = (
        " ".join(
            f"{WIDTH * (at - first) / ((last - first) or 1):.1f},{HEIGHT * (1 - value / top):.1f}"
            for at, value in points
        )
        for points in means
    )
    return Plot(name, form.format(top), candidate, stable)


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
        case "rollout" if move.is_shadow:
            copied = 100 * float(move.detail["shadow"]["share"])
            return f"version {move.to_version} gets copies of {copied:g}% of the calls, unshown"
        case "rollout":
            return f"version {move.to_version} gets {100 * float(share or 0):g}% of the callers"
        case "rollback":
            return f"rolled back from version {move.from_version} to {move.to_version}"
        case _:
            return f"version {move.to_version} is promoted"
