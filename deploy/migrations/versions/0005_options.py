"""Options of aliases, and which answers were given by a fallback."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    with op.batch_alter_table("aliases") as aliases:
        aliases.add_column(sa.Column("options", sa.JSON(none_as_null=True)))
    with op.batch_alter_table("captures") as captures:
        captures.add_column(sa.Column("fallback", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    """Take them back."""
    with op.batch_alter_table("captures") as captures:
        captures.drop_column("fallback")
    with op.batch_alter_table("aliases") as aliases:
        aliases.drop_column("options")
