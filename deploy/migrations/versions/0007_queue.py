"""The priority of keys, and how long calls waited for room on a worker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("priority", sa.String(), nullable=False, server_default="normal"))
    with op.batch_alter_table("captures") as captures:
        captures.add_column(sa.Column("queued", sa.Double(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Take them back."""
    with op.batch_alter_table("captures") as captures:
        captures.drop_column("queued")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_column("priority")
