"""The bodies of review. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from feedback.review import Decision, Item
from gateway.admin.schemas import Asked, Page, Told

Score = Annotated[float, Field(ge=0, le=1)]


class Scores(Asked):
    """How good an answer is, 0 to 1."""

    correctness: Score | None = None
    relevance: Score | None = None
    safety: Score | None = None


class DecisionRequest(Asked):
    """A verdict; `correction` goes with `wrong` and is what should have been answered."""

    verdict: Literal["correct", "wrong", "unsafe", "skip"]
    correction: Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")] | None = None
    scores: Scores | None = None

    def decision(self) -> Decision:
        """Give the value that the store takes."""
        scores = self.scores.model_dump(exclude_none=True) if self.scores else None
        return Decision(self.verdict, self.correction, scores or None)


class ReviewItemOut(Told):
    """An answer that waits for a reviewer, or has had one."""

    id: int
    response_id: str
    alias: str
    version: int
    model: str
    reason: str
    status: Literal["open", "claimed", "done"]
    priority: float
    inclusion_probability: float
    confidence: float | None
    claimed_by: str | None
    claimed_until: float | None
    created_at: float
    messages: list[dict[str, Any]] | None = Field(description="null once the answer was deleted")
    choices: list[dict[str, Any]] | None
    feedback: list[dict[str, Any]]
    reviews: list[dict[str, Any]]

    @classmethod
    def of(cls, item: Item) -> ReviewItemOut:
        """Tell of an item."""
        row, answer = item.row, item.answer
        own = ("id", "response_id", "alias", "version", "reason", "priority", "created_at")
        said = ("id", "rating", "score", "labels", "comment", "correction", "created_at")
        decided = ("id", "reviewer", "verdict", "scores", "correction", "created_at", "undone_at")
        held = item.status == "claimed"
        return cls(
            **{name: row[name] for name in own},
            model=item.model,
            status=item.status,
            inclusion_probability=row["inclusion_probability"],
            confidence=answer["confidence_mean"] if answer is not None else None,
            claimed_by=row["claimed_by"] if held else None,
            claimed_until=row["claimed_until"] if held else None,
            messages=answer["messages"] if answer is not None else None,
            choices=answer["choices"] if answer is not None else None,
            feedback=[{name: one[name] for name in said} for one in item.feedback],
            reviews=[{name: one[name] for name in decided} for one in item.reviews],
        )


class ReviewList(Page):
    """Items, the most pressing first; the next page begins `after` the last one's id."""

    data: list[ReviewItemOut]
