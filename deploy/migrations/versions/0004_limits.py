"""Limits of keys, and the usage that they are held against."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("requests_per_minute", sa.Integer()))
        keys.add_column(sa.Column("tokens_per_minute", sa.Integer()))
        keys.add_column(sa.Column("token_budget", sa.BigInteger()))
        keys.add_column(
            sa.Column("budget_period", sa.String(), nullable=False, server_default="month")
        )
        keys.add_column(sa.Column("account", sa.Integer()))
        keys.create_index("ix_api_keys_account", ["account"])
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", "alias", "version", "key_id", name="pk_usage"),
    )
    op.create_index("ix_usage_key_id_day", "usage", ["key_id", "day"])


def downgrade() -> None:
    """Take them back."""
    op.drop_table("usage")
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_index("ix_api_keys_account")
        for name in (
            "account",
            "budget_period",
            "token_budget",
            "tokens_per_minute",
            "requests_per_minute",
        ):
            keys.drop_column(name)
