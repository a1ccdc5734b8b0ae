"""The tables of the feedback store. Times are seconds since the epoch.

Keys, aliases and versions are rows of the gateway's registry in the same database; they are named
here by value, without foreign keys, because neither side's rows wait for the other's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from feedback.db import NAMES

_Json = JSON(none_as_null=True)


class FeedbackBase(DeclarativeBase):
    """Holds the store's metadata."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads this attribute as it stands)
        float: Double(),
        str: String(),
        dict[str, Any]: _Json,
        list[str]: _Json,
        list[dict[str, Any]]: _Json,
    }


class CaptureRow(FeedbackBase):
    """An answer, scrubbed; `id` is the response id that the client got.

    `messages` are [{role, content, ...}] (a completion's prompt is one user message), `parameters`
    what else was asked, `choices` as `feedback.types.CapturedChoice`. The confidence is choice 0's.
    `reasons` says why it is kept: none, or of flagged, doubtful, guarded, audit. `fallback` is
    {"wanted", "answered"}, two versions' names, where another version answered.
    """

    __tablename__ = "captures"
    __table_args__ = (
        Index(None, "tenant", "alias", "started"),
        Index(None, "keep_until"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int]
    version_id: Mapped[int]
    key_id: Mapped[int]
    worker: Mapped[str]
    route: Mapped[str]
    messages: Mapped[list[dict[str, Any]]]
    parameters: Mapped[dict[str, Any]]
    choices: Mapped[list[dict[str, Any]]]
    usage: Mapped[dict[str, Any]]
    confidence_mean: Mapped[float | None]
    confidence_min: Mapped[float | None]
    outcome: Mapped[str]
    audit: Mapped[list[dict[str, Any]]]
    started: Mapped[float]
    first_token: Mapped[float | None]
    duration: Mapped[float]
    queued: Mapped[float] = mapped_column(server_default="0")
    reasons: Mapped[list[str]]
    inclusion_probability: Mapped[float]
    keep_until: Mapped[float]
    session: Mapped[str | None]
    request_id: Mapped[str]
    scrubber: Mapped[str]
    fallback: Mapped[dict[str, Any] | None]


class ShadowPairRow(FeedbackBase):
    """What a call's answer and the candidate's, which got a copy of it, were like.

    No text. `id` is the response id of the answer that the client got; versions are named by the
    registry's ids.
    """

    __tablename__ = "shadow_pairs"
    __table_args__ = (
        Index(None, "tenant", "alias", "started"),
        Index(None, "started"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    stable_id: Mapped[int]
    candidate_id: Mapped[int]
    session: Mapped[str | None]
    started: Mapped[float]
    stable_failed: Mapped[bool]
    candidate_failed: Mapped[bool]
    stable_blocked: Mapped[bool]
    candidate_blocked: Mapped[bool]
    stable_seconds: Mapped[float]
    candidate_seconds: Mapped[float]
    stable_mean: Mapped[float | None]
    candidate_mean: Mapped[float | None]
    same_text: Mapped[bool | None]


class FeedbackRow(FeedbackBase):
    """What someone said of an answer; pending until the answer's capture is there.

    `replied` is the status that the caller was told: the same call again is told the same.
    `session` is the answer's, once its capture is there.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        UniqueConstraint("tenant", "key_id", "idempotency_key"),
        Index(None, "tenant", "response_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    response_id: Mapped[str]
    key_id: Mapped[int]
    rating: Mapped[str | None]
    score: Mapped[float | None]
    labels: Mapped[list[str]]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    body_sha256: Mapped[str]
    status: Mapped[str]
    replied: Mapped[str]
    created_at: Mapped[float]
    session: Mapped[str | None]


class SamplingRow(FeedbackBase):
    """What the choice of doubtful answers remembers of one alias, shared by all gateways."""

    __tablename__ = "sampling"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]]
    updated_at: Mapped[float]


class ReviewItemRow(FeedbackBase):
    """An answer that waits for a reviewer, once per answer.

    `reason` is flagged, guarded, doubtful or audit; `status` open, claimed or done. Higher
    `priority` comes first. `inclusion_probability` is that of the audit's or doubt's draw.
    `session` and `key_id` are the answer's, and outlive its capture.
    """

    __tablename__ = "review_items"
    __table_args__ = (
        UniqueConstraint("tenant", "response_id"),
        Index(None, "tenant", "status", "alias", "priority"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    response_id: Mapped[str]
    alias: Mapped[str]
    version: Mapped[int]
    reason: Mapped[str]
    priority: Mapped[float]
    status: Mapped[str]
    claimed_by: Mapped[str | None]
    claimed_until: Mapped[float | None]
    created_at: Mapped[float]
    inclusion_probability: Mapped[float]
    session: Mapped[str | None]
    key_id: Mapped[int | None]


class ReviewRow(FeedbackBase):
    """A reviewer's verdict (correct, wrong, unsafe, skip) and correction; undone, never deleted."""

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    item_id: Mapped[int] = mapped_column(ForeignKey("review_items.id"), index=True)
    reviewer: Mapped[str]
    verdict: Mapped[str]
    scores: Mapped[dict[str, Any] | None]
    correction: Mapped[str | None]
    created_at: Mapped[float]
    undone_at: Mapped[float | None]


class GoldenSetRow(FeedbackBase):
    """One version of an alias's golden set; the newest is the one in force."""

    __tablename__ = "golden_sets"
    __table_args__ = (Index(None, "tenant", "alias", "created_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    digest: Mapped[str]
    created_at: Mapped[float]


class GoldenItemRow(FeedbackBase):
    """A query with its verified answer; the dates bound its validity (prices change).

    One with `erased_at` has lost its texts and is in no use any more.
    """

    __tablename__ = "golden_items"

    set_id: Mapped[int] = mapped_column(ForeignKey("golden_sets.id"), primary_key=True)
    item_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    slice: Mapped[str]
    instruction: Mapped[str]
    input: Mapped[str]
    output: Mapped[str]
    template_id: Mapped[str | None]
    valid_from: Mapped[float | None]
    valid_until: Mapped[float | None]
    erased_at: Mapped[float | None]


class TicketRow(FeedbackBase):
    """An imported row; `digest` is over its content, `split_key` names its conversation."""

    __tablename__ = "tickets"
    __table_args__ = (UniqueConstraint("tenant", "alias", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    digest: Mapped[str]
    slice: Mapped[str]
    instruction: Mapped[str]
    input: Mapped[str]
    output: Mapped[str]
    source: Mapped[str]
    split_key: Mapped[str | None]
    created_at: Mapped[float]


class DatasetRow(FeedbackBase):
    """An immutable version of a data set; its digest covers tenant, alias and all rows."""

    __tablename__ = "datasets"
    __table_args__ = (Index(None, "tenant", "alias", "created_at"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class DatasetItemRow(FeedbackBase):
    """A row of a data set; `origin` is import, correction or accepted, `lineage` where from.

    `lineage` holds `ticket_id`, or `response_id`, `review_id` and `version`. A row with `erased_at`
    has lost its texts; digest and lineage stay.
    """

    __tablename__ = "dataset_rows"

    dataset_digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    row_digest: Mapped[str]
    instruction: Mapped[str]
    input: Mapped[str]
    output: Mapped[str]
    slice: Mapped[str]
    origin: Mapped[str]
    lineage: Mapped[dict[str, Any]]
    erased_at: Mapped[float | None]


class JobRow(FeedbackBase):
    """Work for a trainer, claimed by a lease.

    `state` is queued, running, done, failed, skipped or cancelled; `stages` records what each
    finished stage made.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "state", "created_at"), Index(None, "tenant", "alias"))

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[str]
    alias: Mapped[str]
    state: Mapped[str]
    stage: Mapped[str | None]
    stages: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]]
    run_id: Mapped[str | None]
    lease_holder: Mapped[str | None]
    lease_until: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]


class GateReportRow(FeedbackBase):
    """A gate's verdict on a candidate (`support@8`) against another version."""

    __tablename__ = "gate_reports"
    __table_args__ = (Index(None, "tenant", "alias", "created_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    candidate: Mapped[str]
    against: Mapped[str]
    verdict: Mapped[str]
    report: Mapped[dict[str, Any]]
    job_id: Mapped[str | None]
    created_at: Mapped[float]


class EvaluationRow(FeedbackBase):
    """A version's answers to a golden set, kept under the digest of what they follow from."""

    __tablename__ = "evaluations"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class UsageRow(FeedbackBase):
    """What was used on a day (`2026-11-24`, UTC): counted as records come, kept without end."""

    __tablename__ = "usage"
    __table_args__ = (Index(None, "key_id", "day"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[int] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger())
    prompt_tokens: Mapped[int] = mapped_column(BigInteger())
    completion_tokens: Mapped[int] = mapped_column(BigInteger())


class CountedRow(FeedbackBase):
    """A call that was counted of which no answer is kept, so that it is not counted again."""

    __tablename__ = "counted"
    __table_args__ = (Index(None, "keep_until"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    keep_until: Mapped[float]


_TABLES = FeedbackBase.metadata.tables

CAPTURES = _TABLES["captures"]
SHADOW_PAIRS = _TABLES["shadow_pairs"]
FEEDBACK = _TABLES["feedback"]
SAMPLING = _TABLES["sampling"]
REVIEW_ITEMS = _TABLES["review_items"]
REVIEWS = _TABLES["reviews"]
GOLDEN_SETS = _TABLES["golden_sets"]
GOLDEN_ITEMS = _TABLES["golden_items"]
TICKETS = _TABLES["tickets"]
DATASETS = _TABLES["datasets"]
DATASET_ROWS = _TABLES["dataset_rows"]
JOBS = _TABLES["jobs"]
GATE_REPORTS = _TABLES["gate_reports"]
EVALUATIONS = _TABLES["evaluations"]
USAGE = _TABLES["usage"]
COUNTED = _TABLES["counted"]
