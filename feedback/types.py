"""Values that cross the border of the feedback package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Rating = Literal["up", "down"]
ReviewReason = Literal["flagged", "guarded", "doubtful", "audit"]
FeedbackStatus = Literal["linked", "pending"]


class Confidence(msgspec.Struct, frozen=True):
    """How sure the model was, from the sampled tokens' natural-log probabilities.

    `sequence` is their sum; scaffolding (JSON punctuation and keys) is left out of all figures.
    """

    sequence: float
    mean: float
    minimum: float
    p10: float
    length: int


class CapturedChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of an answer as the client got it, with the raw text the model produced."""

    index: int
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    confidence: Confidence | None = None


class Fallback(msgspec.Struct, frozen=True):
    """Which version was to answer and which one did: `support@4`, `triage@2`."""

    wanted: str
    answered: str


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it is recorded; `id` is the response id that the client got.

    Times are seconds since the epoch (`started`) and durations in seconds; `queued` is how long
    the call waited for room on a worker. `outcome` is `ok`, `blocked_input`, `client_gone`,
    `failed` or the error's code.
    """

    id: str
    route: str
    tenant: str
    key_id: int
    alias: str
    version: int
    version_id: int
    worker: str
    request: Any
    choices: list[CapturedChoice]
    usage: dict[str, Any]
    started: float
    first_token: float | None
    duration: float
    outcome: str
    audit: list[Any]
    request_id: str
    session: str | None = None
    queued: float = 0.0
    sampling_reason: str = "all"
    inclusion_probability: float = 1.0
    fallback: Fallback | None = None


class Use(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="use"):
    """What is kept of a call of which no answer is: how much it used, and nothing of its text.

    `version` answered under `alias`; `id` is the call's own, by which it counts once.
    """

    id: str
    tenant: str
    key_id: int
    alias: str
    version: int
    usage: dict[str, Any]
    started: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a version's answer went, in figures: `mean` is its mean logprob, `seconds` the worker's.

    `failed` is its own hard fault; `blocked` says that an output guard stopped it.
    """

    failed: bool
    blocked: bool
    seconds: float
    mean: float | None = None


class ShadowPair(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="shadow"):
    """One call's answer beside that of a candidate which got a copy: figures only, no text.

    `id` is the id of the answer that the client got. `same_text` is None where one of them failed
    or was blocked.
    """

    id: str
    tenant: str
    alias: str
    stable_id: int
    candidate_id: int
    started: float
    stable: Answer
    candidate: Answer
    same_text: bool | None = None
    session: str | None = None


def model_of(capture: Mapping[Any, Any]) -> str:
    """Name the version that gave an answer, by the capture's columns: `support@3`."""
    fallback = capture.get("fallback")
    return str(fallback["answered"]) if fallback else f"{capture['alias']}@{capture['version']}"


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What someone said of an answer.

    `alias` is whose policy tells what its text may keep. `replied` is the status that the caller is
    told; `body_sha256` tells calls with the same idempotency key apart.
    """

    id: str
    tenant: str
    response_id: str
    key_id: int
    body_sha256: str
    created_at: float
    alias: str = ""
    rating: Rating | None = None
    score: float | None = None
    labels: tuple[str, ...] = ()
    comment: str | None = None
    correction: str | None = None
    idempotency_key: str | None = None
    replied: FeedbackStatus = "pending"

    @property
    def flags(self) -> bool:
        """Whether a reviewer should look at the answer: anything but plain approval."""
        if self.correction is not None or self.rating == "down":
            return True
        if self.score is not None:
            return self.score < 0.5
        return self.rating is None
