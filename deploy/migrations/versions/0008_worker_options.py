"""What is configured of a worker beyond its address and kind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    with op.batch_alter_table("workers") as workers:
        workers.add_column(sa.Column("options", sa.JSON()))


def downgrade() -> None:
    """Take them back."""
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("options")
