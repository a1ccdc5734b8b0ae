"""The database as the registry uses it: the feedback store's, with the gateway's own error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from feedback import db
from feedback.db import make_engine, patience, server_time
from feedback.errors import StoreAway
from gateway.errors import StoreUnavailable

__all__ = ["make_engine", "patience", "reading", "server_time", "writing"]


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction in which all queries see one and the same state.

    Raises `StoreUnavailable` when the database does not answer.
    """
    with _translated(), db.reading(engine) as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a write transaction, committed on leaving and rolled back on any exception.

    Raises `StoreUnavailable` when the database does not answer or stays locked.
    """
    with _translated(), db.writing(engine) as connection:
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StoreAway as error:
        raise StoreUnavailable from error
