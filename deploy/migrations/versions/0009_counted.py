"""Which calls were counted of which no answer is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "counted",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("keep_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_counted"),
    )
    op.create_index("ix_counted_keep_until", "counted", ["keep_until"])


def downgrade() -> None:
    """Take them back."""
    op.drop_table("counted")
