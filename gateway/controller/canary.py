"""Drives canaries of published versions: promoted after enough good answers, else rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Engine, func, select

from feedback.db import reading
from feedback.tables import CAPTURES
from gateway.registry.records import AliasMove
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias

logger = logging.getLogger(__name__)

ACTOR = "controller"
HARD_FAULTS = ("failed", "worker_failed")
"""Outcomes that are the version's own fault; a worker that is away or a client that left is not."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What a candidate's calls came to since its canary began."""

    answers: int
    hard_faults: int
    guarded: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a tally, with the reason for the record."""

    kind: Literal["go_on", "promote", "roll_back"]
    reason: str


def decide(tally: Tally, needed: int) -> Decision:
    """Roll back at the first hard fault, promote after `needed` answers without one."""
    if tally.hard_faults:
        return Decision("roll_back", f"{tally.hard_faults} of its calls failed on the worker")
    if tally.answers >= needed:
        return Decision("promote", f"{tally.answers} answers without a hard fault")
    return Decision("go_on", f"{tally.answers} of {needed} answers")


class CanaryDriver:
    """One look at all canaries. Blocks: use threads. The alias's record is its only memory."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._engine = engine

    def step(self) -> None:
        """Decide on every canary that was started by publishing; others are left to people."""
        for alias in self._registry.snapshot().aliases.values():
            if alias.candidate is None:
                continue
            move = self._registry.describe(alias.tenant, alias.name).moves[-1]
            if move.kind == "rollout" and move.detail.get("driven"):
                self._drive(alias, move)

    def _drive(self, alias: Alias, move: AliasMove) -> None:
        candidate = alias.candidate
        if candidate is None:
            return
        tally = self._tally(alias, candidate.id, move.at)
        decision = decide(tally, int(move.detail.get("answers", 1)))
        if decision.kind == "go_on":
            return
        detail: Mapping[str, Any] = {**asdict(tally), "reason": decision.reason}
        promote = decision.kind == "promote"
        if self._registry.end_rollout(
            alias.tenant, alias.name, candidate.number, ACTOR, promote=promote, detail=detail
        ):
            what = "promoted" if promote else "rolled back"
            logger.info("%s is %s: %s", candidate.model, what, decision.reason)

    def _tally(self, alias: Alias, version_id: int, since: float) -> Tally:
        query = (
            select(CAPTURES.c.outcome, func.count())
            .where(
                CAPTURES.c.tenant == alias.tenant,
                CAPTURES.c.alias == alias.name,
                CAPTURES.c.version_id == version_id,
                CAPTURES.c.started >= since,
            )
            .group_by(CAPTURES.c.outcome)
        )
        with reading(self._engine) as connection:
            counts: dict[str, int] = {name: n for name, n in connection.execute(query)}  # noqa: C416
        return Tally(
            answers=counts.get("ok", 0),
            hard_faults=sum(counts.get(name, 0) for name in HARD_FAULTS),
            guarded=counts.get("blocked_input", 0) + counts.get("content_policy_violation", 0),
        )
