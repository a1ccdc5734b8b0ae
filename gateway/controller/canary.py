"""Drives canaries of published versions: promoted after enough good answers, else rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, and_, func, select

from feedback.db import reading
from feedback.tables import CAPTURES
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias, Version

logger = logging.getLogger(__name__)

ACTOR = "controller"
HARD_FAULTS = ("failed", "worker_failed")
"""Outcomes that are the version's own fault; a worker that is away or a client that left is not."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What a candidate's calls came to since its canary began."""

    answers: int
    hard_faults: int


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
        """Decide on every canary that was started by publishing; others are left to people.

        One that cannot be decided on keeps none of the others waiting. Raises what went wrong.
        """
        errors: list[Exception] = []
        for alias in self._registry.snapshot().aliases.values():
            if alias.candidate is None:
                continue
            try:
                self._look_at(alias, alias.candidate)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _look_at(self, alias: Alias, candidate: Version) -> None:
        begun = self._registry.newest_move(alias.tenant, alias.name)
        if begun is None or not begun.is_driven:
            return
        mine = and_(
            CAPTURES.c.tenant == alias.tenant,
            CAPTURES.c.alias == alias.name,
            CAPTURES.c.version_id == candidate.id,
            CAPTURES.c.started >= begun.at,
        )
        tally = self._tally(mine)
        needed = int(begun.detail.get("answers", 1))
        decision = decide(tally, needed)
        if decision.kind == "go_on":
            return
        detail: Mapping[str, Any] = {
            **asdict(tally),
            "blocked": self._blocked(mine),
            "needed": needed,
            "reason": decision.reason,
            "job_id": begun.detail.get("job_id"),
        }
        promote = decision.kind == "promote"
        if self._registry.end_rollout(
            alias.tenant,
            alias.name,
            candidate.number,
            begun,
            actor=ACTOR,
            promote=promote,
            detail=detail,
        ):
            what = "promoted" if promote else "rolled back"
            logger.info("%s is %s: %s", candidate.model, what, decision.reason)

    def _tally(self, mine: ColumnElement[bool]) -> Tally:
        query = select(CAPTURES.c.outcome, func.count()).where(mine).group_by(CAPTURES.c.outcome)
        with reading(self._engine) as connection:
            counts: dict[str, int] = {name: n for name, n in connection.execute(query)}  # noqa: C416
        return Tally(
            answers=counts.get("ok", 0),
            hard_faults=sum(counts.get(name, 0) for name in HARD_FAULTS),
        )

    def _blocked(self, mine: ColumnElement[bool]) -> int:
        """Count the answers in which a guard blocked something: told, and not a hard fault."""
        with reading(self._engine) as connection:
            audits = connection.scalars(select(CAPTURES.c.audit).where(mine))
            return sum(any(_is_block(entry) for entry in audit) for audit in audits)


def _is_block(entry: Mapping[str, Any]) -> bool:
    return entry.get("stage") == "output" and entry.get("action") == "block"
