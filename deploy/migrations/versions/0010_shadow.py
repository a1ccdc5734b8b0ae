"""Shadow rollouts: the share of an alias's calls that is copied, and what came of the copies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.add_column("aliases", sa.Column("shadow", sa.Double()))
    op.create_table(
        "shadow_pairs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("stable_id", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("session", sa.String()),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("stable_failed", sa.Boolean(), nullable=False),
        sa.Column("candidate_failed", sa.Boolean(), nullable=False),
        sa.Column("stable_blocked", sa.Boolean(), nullable=False),
        sa.Column("candidate_blocked", sa.Boolean(), nullable=False),
        sa.Column("stable_seconds", sa.Double(), nullable=False),
        sa.Column("candidate_seconds", sa.Double(), nullable=False),
        sa.Column("stable_mean", sa.Double()),
        sa.Column("candidate_mean", sa.Double()),
        sa.Column("same_text", sa.Boolean()),
        sa.PrimaryKeyConstraint("id", name="pk_shadow_pairs"),
    )
    op.create_index(
        "ix_shadow_pairs_tenant_alias_started", "shadow_pairs", ["tenant", "alias", "started"]
    )
    op.create_index("ix_shadow_pairs_started", "shadow_pairs", ["started"])


def downgrade() -> None:
    """Take them back."""
    op.drop_table("shadow_pairs")
    op.drop_column("aliases", "shadow")
