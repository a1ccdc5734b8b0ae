"""Shadows: a candidate tried on copies of calls, before any caller gets an answer of it.

A shadow is the step before a rollout's first. Each call is answered twice, so differences are taken
call by call, and the spread between questions falls out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, not_, select

from feedback.tables import SHADOW_PAIRS
from gateway.registry.snapshot import Alias, Version
from gateway.rollout.rule import LONGEST_S, Decision, Measure, Plan, State, decide
from gateway.rollout.sequential import FEWEST_USERS, Arm, Evidence, e_value
from gateway.settings import RolloutSettings

STEP = -1
_PAIRS = SHADOW_PAIRS.c
_USER = func.coalesce(_PAIRS.session, _PAIRS.id)
_ANSWERED = and_(not_(_PAIRS.stable_failed), not_(_PAIRS.candidate_failed))
_WHOLE = and_(_ANSWERED, not_(_PAIRS.stable_blocked), not_(_PAIRS.candidate_blocked))


def shadowed(
    detail: Mapping[str, Any], settings: RolloutSettings, shadow: Mapping[str, Any]
) -> dict[str, Any]:
    """Give what goes into the record of a rollout that begins with a shadow.

    The controller drives it; what `detail` leaves to a person is left so afterwards. Both halves
    share the chance to roll back an equal candidate.
    """
    plan = {**settings.plan(), **detail}
    by_hand = not detail.get("driven")
    told = {"shadow": dict(shadow), "step": STEP, "alpha": plan["alpha"] / 2}
    return {**plan, **told, "by_hand": True} if by_hand else {**plan, **told}


def after(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Give the record of the rollout that follows a shadow; where a person goes on, it says so."""
    kept = {name: value for name, value in detail.items() if name not in ("shadow", "by_hand")}
    return {**kept, "driven": not detail.get("by_hand")}


@dataclass(frozen=True, slots=True)
class Paired(Measure):
    """A measure of calls that both versions answered: `differences` is candidate minus stable.

    `spread` is the least variance of one call's. The candidate is worse only where it is so by more
    than `allowed`.
    """

    differences: Arm = field(default_factory=Arm)
    spread: float = 1e-12
    allowed: float = 0.0

    def evidence(self) -> Evidence:
        """Weigh the differences."""
        arm = self.differences
        if arm.users < FEWEST_USERS:
            return Evidence(arm.mean, math.inf, 0.0, 0.0)
        variance = arm.variance(self.spread)
        return Evidence(
            arm.mean,
            variance,
            e_value(arm.mean - self.allowed, variance, self.margin),
            e_value(self.margin - arm.mean, variance, self.margin),
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """What was seen of a shadow; `faults` are the calls that only the candidate failed.

    `surer` is the mean difference of the mean logprobs (candidate minus stable) and `same` the
    share of the same texts; None where nothing can be said. Both are told, and decide nothing:
    training changes them.
    """

    count: int
    faults: int
    measures: Sequence[Paired]
    surer: float | None
    same: float | None


class Since(NamedTuple):
    """The pairs of two versions of an alias from a moment on, in seconds since the epoch."""

    alias: Alias
    at: float
    candidate: Version
    stable: Version

    @property
    def where(self) -> ColumnElement[bool]:
        """The condition for these pairs."""
        return and_(
            _PAIRS.tenant == self.alias.tenant,
            _PAIRS.alias == self.alias.name,
            _PAIRS.started >= self.at,
            _PAIRS.candidate_id == self.candidate.id,
            _PAIRS.stable_id == self.stable.id,
        )


def pairs(connection: Connection, since: Since, settings: RolloutSettings) -> Pairs:
    """Measure both versions over the pairs; a call without a session is a user of its own."""
    errors = _paired(connection, since, _Of("failed"), settings.margin)
    blocks = _paired(connection, since, _Of("blocked", _ANSWERED), settings.margin)
    seconds = _paired(connection, since, _Of("seconds", _WHOLE, rate=False), settings.margin)
    slower = settings.slower * max(seconds.stable.mean, 0.01)
    only = and_(_PAIRS.candidate_failed, not_(_PAIRS.stable_failed))
    query = select(
        func.count(),
        func.coalesce(func.sum(case((only, 1), else_=0)), 0),
        func.avg(_PAIRS.candidate_mean - _PAIRS.stable_mean),
        func.avg(case((_PAIRS.same_text.is_(None), None), (_PAIRS.same_text, 1.0), else_=0.0)),
    ).where(since.where)
    count, faults, surer, same = connection.execute(query).one()
    timed = replace(seconds, margin=slower, allowed=slower)
    return Pairs(int(count), int(faults), [errors, blocks, timed], _float(surer), _float(same))


def _float(value: Any) -> float | None:
    """Give a database's own kind of number as one that a record can hold."""
    return None if value is None else float(f"{value:.6g}")


def decide_shadow(plan: Plan, answers: int, found: Pairs) -> Decision:
    """Look at a shadow; as often as one likes. `answers` is how many pairs it takes."""
    wanted = replace(plan, answers=answers)
    decision = decide(wanted, State(STEP, found.count, found.faults), found.measures)
    told = {"pairs": found.count, "same_text": found.same, "logprob_difference": found.surer}
    return replace(decision, numbers={**decision.numbers, **told})


class Pair(NamedTuple):
    """How a call went with both versions; `at` is in seconds since the epoch."""

    at: float
    failed: tuple[bool, bool]
    seconds: tuple[float, float]


def series(connection: Connection, since: Since, most: int = 20_000) -> list[Pair]:
    """Give the latest pairs, oldest first; candidate before stable."""
    columns = [
        _PAIRS[f"{role}_{name}"]
        for name in ("failed", "seconds")
        for role in ("candidate", "stable")
    ]
    query = select(_PAIRS.started, *columns).where(since.where)
    rows = connection.execute(query.order_by(_PAIRS.started.desc()).limit(most)).all()
    return [Pair(row[0], (row[1], row[2]), (row[3], row[4])) for row in reversed(rows)]


@dataclass(frozen=True, slots=True)
class _Of:
    """Two columns that are compared, and over which pairs; `rate` where they are true or false."""

    name: str
    among: ColumnElement[bool] | None = None
    rate: bool = True

    def value(self, role: str) -> ColumnElement[Any]:
        column = _PAIRS[f"{role}_{self.name}"]
        if self.rate:
            return case((column, 1.0), else_=0.0)
        return case((column > LONGEST_S, LONGEST_S), else_=column)


def least_spread(calls: int, total: float, squares: float) -> float:
    """Give the least variance of one call's difference of rates: none seen is not none.

    `total` and `squares` are the sums of the differences and of their squares.
    """
    return (squares + 0.5) / (calls + 1) - (total / (calls + 1)) ** 2


_PLURALS = {"failed": "errors", "blocked": "blocks", "seconds": "seconds"}


def _paired(connection: Connection, since: Since, of: _Of, margin: float) -> Paired:
    candidate, stable = of.value("candidate"), of.value("stable")
    squared = (candidate - stable) * (candidate - stable)
    sums = [func.sum(value) for value in (candidate, stable, squared)]
    where = since.where if of.among is None else and_(since.where, of.among)
    arms, calls, total, square = (Arm(), Arm(), Arm()), 0, 0.0, 0.0
    query = select(func.count(), *sums).where(where).group_by(_USER)
    for number, mine, theirs, squares in connection.execute(query):
        for arm, value in zip(arms, (mine, theirs, mine - theirs), strict=True):
            arm.add(number, float(value))
        calls, total, square = calls + number, total + float(mine - theirs), square + float(squares)
    spread = least_spread(calls, total, square) if of.rate else 1e-12
    return Paired(
        _PLURALS[of.name],
        *arms[:2],
        margin,
        rate=of.rate,
        unit="" if of.rate else " s",
        differences=arms[2],
        spread=spread,
    )
