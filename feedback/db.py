"""Engines and transactions: SQLite (WAL) when embedded, PostgreSQL when shared.

The registry of the gateway lies in the same database and uses them too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, InternalError, NotSupportedError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from feedback.errors import StoreAway

_WRITES = "adapterloop_writes"
_TURN = "adapterloop_turn"
_LOCKED_S = 5.0
"""Seconds to wait for SQLite's one writer: for those of this process, and then for the others."""
_READ_ONLY = ("25006", "0A000")
"""How a PostgreSQL refuses to write that is a standby now: a statement, or the transaction."""
_PATIENCE = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Of libpq: a host that is gone without a word is waited for some ten seconds. By itself TCP waits
a quarter of an hour, and all that reads the database would wait with it."""

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint gets a name, so that migrations can drop it."""


def make_engine(url: str | URL) -> Engine:
    """Give an engine for `sqlite:///file` or `postgresql://...`; connects to nothing yet."""
    url = _with_driver(make_url(url))
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    return create_engine(url, pool_pre_ping=True, connect_args=patience(url), **_json())


def patience(url: URL) -> dict[str, int]:
    """Give the options of libpq that bound what is waited for; those in the URL stay as they are.

    In seconds, save for `tcp_user_timeout`, which is in milliseconds.
    """
    return {name: value for name, value in _PATIENCE.items() if name not in url.query}


def _json() -> dict[str, Any]:
    return {
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }


def _with_driver(url: URL) -> URL:
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    return url


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": _LOCKED_S, "check_same_thread": False},
        execution_options={_TURN: threading.Lock()},
        **_json(),
    )
    busy = f"busy_timeout = {_LOCKED_S * 1000:.0f}"

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes late and is never IMMEDIATE: `_begin` sends ours instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (busy, "journal_mode = WAL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer half-way cannot wait for another writer: it fails at once.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read transaction in which all queries see one and the same state.

    Raises `StoreAway` when the database does not answer.
    """
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with _translated(), engine.execution_options(**options).begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a write transaction, committed on leaving and rolled back on any exception.

    Raises `StoreAway` when the database does not answer or stays locked.
    """
    writer = engine.execution_options(**{_WRITES: True})
    with _translated(), _turn(engine), writer.begin() as connection:
        yield connection


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    """Let SQLite's writers of this process in one by one.

    SQLite itself lets in whoever happens to try next: of many, some would wait in vain, each with
    a connection that readers lack.
    """
    turn: threading.Lock | None = engine.get_execution_options().get(_TURN)
    if turn is None:
        yield
        return
    if not turn.acquire(timeout=_LOCKED_S):
        raise StoreAway
    try:
        yield
    finally:
        turn.release()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise StoreAway from error
    except (InternalError, NotSupportedError) as error:
        if getattr(error.orig, "sqlstate", None) in _READ_ONLY:
            raise StoreAway from error
        raise


def server_time(connection: Connection) -> float:
    """Give the time, in seconds since the epoch, on the one clock that all processes share.

    Leases and heartbeats compare times written by several hosts, so PostgreSQL's clock rules.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)
    return time.time()
