"""How far the model's sureness can be trusted, by what reviewers said of its answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from feedback.confidence import Trust, trust_of
from gateway.admin.access import READERS, Backstage, backstage, check_sees, needs
from gateway.admin.schemas import ErrorBody, Told
from gateway.registry.errors import AliasNotFound
from gateway.registry.snapshot import Key


class RateOut(Told):
    """A share with its 95% interval, from so many audited answers."""

    value: float
    low: float
    high: float
    items: int


class BudgetOut(Told):
    """The review budget and its use in the last 24 hours; doubt begins below the threshold."""

    budget: int
    seen: int
    doubtful: int
    audited: int
    threshold: float | None


class PointOut(Told):
    """The share of wrong answers among the surest `coverage` of all."""

    coverage: float
    risk: float


class ConfidenceOut(Told):
    """What reviewed answers say of the sureness of an alias, in shares of 0..1.

    `method` is mean (too few labels for a model), platt or isotonic; `labels` counts by the reason
    of the review. `missed` is the share of answers that are wrong and that nothing brought up.
    """

    alias: str
    method: str
    labels: dict[str, int]
    wrong: int
    auroc: float | None
    auroc_minimum: float | None
    brier: float | None
    ece: float | None
    risk_coverage: list[PointOut]
    missed: RateOut | None
    review: BudgetOut

    @classmethod
    def of(cls, found: Trust) -> ConfidenceOut:
        """Tell of an alias."""
        fit, missed, use = found.fit, found.missed, found.use
        return cls(
            alias=found.alias,
            method=fit.method,
            labels=dict(found.labels),
            wrong=found.wrong,
            auroc=fit.auroc,
            auroc_minimum=found.auroc_minimum,
            brier=fit.brier,
            ece=fit.ece,
            risk_coverage=[PointOut(coverage=c, risk=r) for c, r in fit.risk_coverage],
            missed=missed
            and RateOut(value=missed.value, low=missed.low, high=missed.high, items=missed.items),
            review=BudgetOut(
                budget=use.budget,
                seen=use.seen,
                doubtful=use.doubtful,
                audited=use.audited,
                threshold=use.threshold,
            ),
        )


def create_router() -> APIRouter:
    """Make the route `/confidence/{alias}`."""
    router = APIRouter(tags=["review"])
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}
    router.add_api_route("/confidence/{alias}", confidence, methods=["GET"], responses=missing)
    return router


def confidence(
    alias: str,
    key: Annotated[Key, Depends(needs(*READERS))],
    behind: Annotated[Backstage, Depends(backstage)],
) -> ConfidenceOut:
    """Tell how well the sureness of an alias's answers goes with what reviewers found."""
    check_sees(key, alias)
    if not behind.registry.has_alias(key.tenant, alias):
        raise AliasNotFound
    settings = behind.settings.feedback
    return ConfidenceOut.of(trust_of(behind.database, settings, key.tenant, alias))
