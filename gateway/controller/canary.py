"""Drives rollouts: more callers step by step, then promoted, or rolled back when worse."""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from feedback.db import reading
from gateway.registry.records import AliasMove
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias, Snapshot, Version
from gateway.rollout import shadow
from gateway.rollout.measures import Since, outcomes
from gateway.rollout.risk import weighed
from gateway.rollout.rule import Decision, Plan, State, decide
from gateway.rollout.shadow import after
from gateway.settings import RolloutSettings
from gateway.workers.probe import Observed

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
        self._snapshot: Snapshot | None = None

    def step(self) -> None:
        """Decide on every rollout that is the controller's; others are left to people.

        One that cannot be decided on keeps none of the others waiting. Raises what went wrong.
        """
        errors: list[Exception] = []
        self._snapshot = self._registry.snapshot(self._snapshot)  # cheap while nothing changes
        for alias in self._snapshot.aliases.values():
            if alias.candidate is None or alias.stable is None:
                continue
            try:
                self._look_at(alias, alias.candidate, alias.stable)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _look_at(self, alias: Alias, candidate: Version, stable: Version) -> None:
        newest = self._registry.latest_moves(alias.tenant, alias.name, 1)
        if not newest or not newest[0].is_driven:
            return
        begun = newest[0]
        plan, step = Plan.of(begun.detail), int(begun.detail.get("step", 0))
        look = self._shadow if begun.is_shadow else self._canary
        decision = look(alias, candidate, stable, begun, plan)
        if decision.kind == "go_on":
            return
        if decision.kind != "roll_back" and not self._answers(candidate):
            return  # more callers only where they would be answered; the next look decides anew
        kept = {name: begun.detail.get(name) for name in ("gate_id", "job_id")}
        detail = {**kept, **decision.numbers, "reason": decision.reason}
        share = {"promote": 1.0, "roll_back": 0.0}.get(decision.kind)
        if share is None:
            share = plan.steps[step + 1]
            before = after(begun.detail) if begun.is_shadow else begun.detail
            since = {} if begun.is_shadow else {"since": begun.since}
            detail = {**before, **detail, **since, "step": step + 1}
        if self._registry.drive_rollout(
            alias, candidate.number, begun, share, actor=ACTOR, detail=detail
        ):
            logger.info("%s %s: %s", candidate.model, _DONE[decision.kind], decision.reason)

    def _answers(self, version: Version) -> bool:
        """Whether a worker that is up was proven to answer with the version in its present boot."""
        if version.is_base:
            return True
        assert self._snapshot is not None  # noqa: S101 (read by `step`)
        up = {w.name: Observed(w.name, boot=w.boot) for w in self._registry.workers() if w.healthy}
        return any(
            placement.routable
            and placement.worker in up
            and up[placement.worker].same_boot(placement)
            for placement in self._snapshot.placements.get(version.id, ())
        )

    def _shadow(
        self, alias: Alias, candidate: Version, stable: Version, begun: AliasMove, plan: Plan
    ) -> Decision:
        """Decide by what came of copies; their callers have seen nothing of it."""
        since = shadow.Since(alias, begun.at, candidate, stable)
        with reading(self._engine) as connection:
            found = shadow.pairs(connection, since, self._settings)
        return shadow.decide_shadow(plan, int(begun.detail["shadow"]["answers"]), found)

    def _canary(
        self, alias: Alias, candidate: Version, stable: Version, begun: AliasMove, plan: Plan
    ) -> Decision:
        """Decide by what the callers of both versions met with in this step.

        Hours differ. Over steps of different shares the later ones weigh more for the candidate, so
        that a busy hour would count against it.
        """
        step = Since(alias, begun.at)
        with reading(self._engine) as connection:
            answers, _ = outcomes(connection, step, candidate)
            _, faults = outcomes(connection, Since(alias, begun.since), candidate)
            found = (
                weighed(connection, step, candidate, stable, self._settings, begun.detail)
                if plan.test
                else []
            )
        return decide(plan, State(int(begun.detail.get("step", 0)), answers, faults), found)


_DONE = {"step": "gets more callers", "promote": "is promoted", "roll_back": "is rolled back"}
