"""What the request was called that made a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INDEX = "ix_api_keys_tenant_idempotency_key"


def upgrade() -> None:
    """Bring the tables forward."""
    op.add_column("api_keys", sa.Column("idempotency_key", sa.String()))
    op.create_index(_INDEX, "api_keys", ["tenant", "idempotency_key"], unique=True)


def downgrade() -> None:
    """Take them back."""
    op.drop_index(_INDEX, "api_keys")
    op.drop_column("api_keys", "idempotency_key")
