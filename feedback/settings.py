"""What the feedback store is told: read once, frozen, passed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FeedbackSettings(BaseModel):
    """How long answers are kept, and how many of them reviewers get to see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_hours: float = Field(72.0, gt=0, description="every answer is kept so long")
    keep_days_reviewed: float = Field(
        365.0, gt=0, description="answers that were flagged, doubtful, guarded or audited"
    )
    review_budget: int = Field(
        100, ge=0, description="answers a day and alias that are sent to review unasked"
    )
    review_budgets: Mapping[str, int] = Field({}, description="other budgets, by alias")
    capture: Mapping[str, Literal["all", "none"]] = Field(
        {}, description="by alias: `none` keeps no answers of it"
    )
    outbox_bound: int = Field(200_000, gt=0, description="answers that wait for the store at most")

    def keeps(self, alias: str) -> bool:
        """Whether answers of an alias are kept."""
        return self.capture.get(alias) != "none"

    def budget(self, alias: str) -> int:
        """Give the review budget of an alias, in items a day."""
        return self.review_budgets.get(alias, self.review_budget)
