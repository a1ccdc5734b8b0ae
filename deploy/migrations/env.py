"""Alembic's entry: composes the packages' tables and runs on the connection it is given."""

from __future__ import annotations

from alembic import context

from feedback.erasure.tables import ERASURES
from gateway.registry.tables import Base

# Those of the feedback store, of which the erasures' are the last.
METADATA = [Base.metadata, ERASURES.metadata]


def run() -> None:
    """Run the migrations in the caller's transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
