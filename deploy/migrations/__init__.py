"""Brings a database to the present tables; safe when several processes do so at once."""

from __future__ import annotations

import fcntl
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from gateway.registry.db import make_engine, writing

_FOLDER = Path(__file__).parent
_ADVISORY_LOCK = 7_151_902_418


def upgrade(url: str) -> None:
    """Run every migration that the database lacks; an SQLite file and its folder are made.

    Raises `StoreUnavailable` when the database does not answer.
    """
    engine = make_engine(url)
    try:
        with _alone(engine), writing(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Raise alembic's `CommandError` where the database differs from the models."""
    engine = make_engine(url)
    try:
        with writing(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.check(config)
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config(stdout=io.StringIO())  # it reports to the terminal otherwise
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold a lock that all migrating processes of this database share."""
    file = engine.url.database
    if engine.dialect.name == "postgresql":
        with writing(engine) as connection:
            # Given back with this transaction, whatever becomes of the process.
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK})
            yield
    elif file and file != ":memory:":
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.migrating").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    else:
        yield
