"""Erasures: tombstones and their record, whose answers reviews are of, rows without texts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ANSWER = "FROM captures WHERE captures.tenant = {0}.tenant AND captures.id = {0}.response_id"


def upgrade() -> None:
    """Bring the tables forward."""
    op.add_column("feedback", sa.Column("session", sa.String()))
    op.add_column("review_items", sa.Column("session", sa.String()))
    op.add_column("review_items", sa.Column("key_id", sa.Integer()))
    for table, column in (
        ("feedback", "session"),
        ("review_items", "session"),
        ("review_items", "key_id"),
    ):
        answer = _ANSWER.format(table)
        op.execute(f"UPDATE {table} SET {column} = (SELECT captures.{column} {answer})")  # noqa: S608
    op.add_column("dataset_rows", sa.Column("erased_at", sa.Double()))
    op.add_column("golden_items", sa.Column("erased_at", sa.Double()))
    op.create_table(
        "tombstones",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("session", sa.String()),
        sa.Column("key_id", sa.Integer()),
        sa.Column("response_id", sa.String()),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "value", name="pk_tombstones"),
    )
    for column in ("session", "key_id", "response_id"):
        op.create_index(f"ix_tombstones_tenant_{column}", "tombstones", ["tenant", column])
    op.create_table(
        "erasures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("erasure_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("subjects", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("datasets", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_erasures"),
    )
    op.create_index("ix_erasures_tenant_erasure_id", "erasures", ["tenant", "erasure_id"])


def downgrade() -> None:
    """Take them back."""
    op.drop_table("erasures")
    op.drop_table("tombstones")
    op.drop_column("golden_items", "erased_at")
    op.drop_column("dataset_rows", "erased_at")
    op.drop_column("review_items", "key_id")
    op.drop_column("review_items", "session")
    op.drop_column("feedback", "session")
