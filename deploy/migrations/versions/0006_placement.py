"""What placement goes by: last use, pins, and when an alias last moved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward; a version's registration counts as its first use."""
    op.create_table(
        "version_uses",
        sa.Column("version_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_version_uses"),
    )
    op.execute(
        "INSERT INTO version_uses (version_id, used_at)"
        " SELECT id, created_at FROM versions WHERE number > 0"
    )
    op.add_column("versions", sa.Column("pinned", sa.Integer()))
    op.add_column("aliases", sa.Column("moved_at", sa.Double()))


def downgrade() -> None:
    """Take them back."""
    op.drop_column("aliases", "moved_at")
    op.drop_column("versions", "pinned")
    op.drop_table("version_uses")
