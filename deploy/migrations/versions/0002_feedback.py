"""The feedback store: captures, feedback, review, golden sets, data sets and jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = (
    "gate_reports",
    "jobs",
    "dataset_rows",
    "datasets",
    "tickets",
    "golden_items",
    "golden_sets",
    "reviews",
    "review_items",
    "sampling",
    "feedback",
    "captures",
)


def upgrade() -> None:
    """Bring the tables forward."""
    _captures()
    _feedback()
    _sampling()
    _review()
    _imported()
    _datasets()
    _jobs()


def downgrade() -> None:
    """Take them back."""
    for table in _TABLES:
        op.drop_table(table)


def _captures() -> None:
    op.create_table(
        "captures",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("messages", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("choices", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("usage", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("confidence_mean", sa.Double(), nullable=True),
        sa.Column("confidence_min", sa.Double(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("audit", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("first_token", sa.Double(), nullable=True),
        sa.Column("duration", sa.Double(), nullable=False),
        sa.Column("reasons", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("inclusion_probability", sa.Double(), nullable=False),
        sa.Column("keep_until", sa.Double(), nullable=False),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("scrubber", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_captures"),
    )
    op.create_index("ix_captures_keep_until", "captures", ["keep_until"], unique=False)
    op.create_index(
        "ix_captures_tenant_alias_started", "captures", ["tenant", "alias", "started"], unique=False
    )


def _feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("response_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("rating", sa.String(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("correction", sa.String(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("replied", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint(
            "tenant", "key_id", "idempotency_key", name="uq_feedback_tenant_key_id_idempotency_key"
        ),
    )
    op.create_index(
        "ix_feedback_tenant_response_id", "feedback", ["tenant", "response_id"], unique=False
    )


def _sampling() -> None:
    op.create_table(
        "sampling",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("state", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "alias", name="pk_sampling"),
    )


def _review() -> None:
    op.create_table(
        "review_items",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("response_id", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("claimed_by", sa.String(), nullable=True),
        sa.Column("claimed_until", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("inclusion_probability", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_review_items"),
        sa.UniqueConstraint("tenant", "response_id", name="uq_review_items_tenant_response_id"),
    )
    op.create_index(
        "ix_review_items_tenant_status_alias_priority",
        "review_items",
        ["tenant", "status", "alias", "priority"],
        unique=False,
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("scores", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("correction", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("undone_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["item_id"], ["review_items.id"], name="fk_reviews_item_id_review_items"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
    )
    op.create_index("ix_reviews_item_id", "reviews", ["item_id"], unique=False)


def _imported() -> None:
    op.create_table(
        "golden_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_golden_sets"),
    )
    op.create_index(
        "ix_golden_sets_tenant_alias_created_at",
        "golden_sets",
        ["tenant", "alias", "created_at"],
        unique=False,
    )
    op.create_table(
        "golden_items",
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("slice", sa.String(), nullable=False),
        sa.Column("instruction", sa.String(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("template_id", sa.String(), nullable=True),
        sa.Column("valid_from", sa.Double(), nullable=True),
        sa.Column("valid_until", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["set_id"], ["golden_sets.id"], name="fk_golden_items_set_id_golden_sets"
        ),
        sa.PrimaryKeyConstraint("set_id", "item_id", name="pk_golden_items"),
    )
    op.create_table(
        "tickets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("slice", sa.String(), nullable=False),
        sa.Column("instruction", sa.String(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("split_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tickets"),
        sa.UniqueConstraint("tenant", "alias", "digest", name="uq_tickets_tenant_alias_digest"),
    )


def _datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("manifest", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_datasets"),
    )
    op.create_index(
        "ix_datasets_tenant_alias_created_at",
        "datasets",
        ["tenant", "alias", "created_at"],
        unique=False,
    )
    op.create_table(
        "dataset_rows",
        sa.Column("dataset_digest", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("row_digest", sa.String(), nullable=False),
        sa.Column("instruction", sa.String(), nullable=False),
        sa.Column("input", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("slice", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("lineage", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_digest"], ["datasets.digest"], name="fk_dataset_rows_dataset_digest_datasets"
        ),
        sa.PrimaryKeyConstraint("dataset_digest", "position", name="pk_dataset_rows"),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column("stages", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("lease_holder", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state_created_at", "jobs", ["state", "created_at"], unique=False)
    op.create_index("ix_jobs_tenant_alias", "jobs", ["tenant", "alias"], unique=False)
    op.create_table(
        "gate_reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("against", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gate_reports"),
    )
    op.create_index(
        "ix_gate_reports_tenant_alias_created_at",
        "gate_reports",
        ["tenant", "alias", "created_at"],
        unique=False,
    )
