"""Drives rollouts: more callers step by step, then promoted, or rolled back when worse."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Engine

from feedback.db import reading
from gateway.registry.records import AliasMove
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias, Version
from gateway.rollout.measures import Since, measures, outcomes
from gateway.rollout.rule import Decision, Plan, State, decide
from gateway.settings import RolloutSettings

logger = logging.getLogger(__name__)

ACTOR = "controller"


class CanaryDriver:
    """One look at all rollouts. Blocks: use threads. The alias's record is its only memory."""

    def __init__(
        self, registry: Registry, engine: Engine, settings: RolloutSettings | None = None
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._settings = settings or RolloutSettings()

    def step(self) -> None:
        """Decide on every rollout that is the controller's; others are left to people.

        One that cannot be decided on keeps none of the others waiting. Raises what went wrong.
        """
        errors: list[Exception] = []
        for alias in self._registry.snapshot().aliases.values():
            if alias.candidate is None or alias.stable is None:
                continue
            begun = self._registry.newest_move(alias.tenant, alias.name)
            if begun is None or not begun.is_driven:
                continue
            try:
                self._look_at(alias, alias.candidate, alias.stable, begun)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _look_at(self, alias: Alias, candidate: Version, stable: Version, begun: AliasMove) -> None:
        plan, step = _plan(begun.detail), int(begun.detail.get("step", 0))
        since = Since(alias, float(begun.detail.get("since", begun.at)))
        with reading(self._engine) as connection:
            answers, _ = outcomes(connection, Since(alias, begun.at), candidate)
            _, faults = outcomes(connection, since, candidate)
            found = (
                measures(connection, since, candidate, stable, self._settings) if plan.test else []
            )
        decision = decide(plan, State(step, answers, faults), found)
        if decision.kind == "go_on":
            return
        kept = {name: begun.detail.get(name) for name in ("gate_id", "job_id")}
        detail = {**kept, **decision.numbers, "reason": decision.reason}
        if decision.kind == "step":
            ongoing = {**begun.detail, **detail, "step": step + 1, "since": since.at}
            done = self._registry.raise_weight(
                alias, candidate.number, begun, plan.steps[step + 1], actor=ACTOR, detail=ongoing
            )
        else:
            done = self._registry.end_rollout(
                alias.tenant,
                alias.name,
                candidate.number,
                begun,
                actor=ACTOR,
                promote=decision.kind == "promote",
                detail=detail,
            )
        if done:
            _tell(candidate, decision)


_DONE = {"step": "gets more callers", "promote": "is promoted", "roll_back": "is rolled back"}


def _tell(candidate: Version, decision: Decision) -> None:
    logger.info("%s %s: %s", candidate.model, _DONE[decision.kind], decision.reason)


def _plan(detail: Any) -> Plan:
    """Read what was decided when the rollout began; only `answers` in those of earlier releases."""
    steps = tuple(detail.get("steps") or (detail.get("weight", 1.0),))
    shares = tuple(share for share in steps if share < 1) or steps
    return Plan(
        shares,
        int(detail.get("answers", 1)),
        test=detail.get("evidence", "answers") == "test",
        alpha=float(detail.get("alpha", 0.05)),
        promotes=bool(detail.get("promotes", True)),
    )
