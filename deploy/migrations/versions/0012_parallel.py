"""How many calls a key may have at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.add_column("api_keys", sa.Column("max_parallel", sa.Integer()))


def downgrade() -> None:
    """Take them back."""
    op.drop_column("api_keys", "max_parallel")
