"""Databases for tests: SQLite always, PostgreSQL where its programs are installed."""

from __future__ import annotations

import atexit
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, text

from deploy.migrations import upgrade
from gateway.registry.db import make_engine
from tests.postgres import INSTALLED, shared_server

KINDS = ("sqlite", "postgresql") if INSTALLED else ("sqlite",)


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """A database without tables."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/adapterloop.db"
    else:
        with _postgres_database("template1") as url:
            yield url


@contextmanager
def migrated_database(kind: str, folder: Path, template: Path) -> Iterator[str]:
    """A database with all tables, copied from one that is made once: SQLite's is `template`."""
    if kind == "sqlite":
        if not template.exists():
            upgrade(f"sqlite:///{template}")
        shutil.copyfile(template, folder / "adapterloop.db")
        yield f"sqlite:///{folder}/adapterloop.db"
    else:
        with _postgres_database(_migrated_template()) as url:
            yield url


@contextmanager
def _postgres_database(template: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(8)}"
    _administer(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield shared_server().url(name)
    finally:
        _administer(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _migrated_template() -> str:
    _administer("CREATE DATABASE migrated")
    upgrade(shared_server().url("migrated"))
    return "migrated"


@cache
def _administration() -> Engine:
    """One connection for all that makes and drops databases: to connect takes as long as that."""
    engine = make_engine(shared_server().url()).execution_options(isolation_level="AUTOCOMMIT")
    atexit.register(engine.dispose)
    return engine


def _administer(statement: str) -> None:
    """Run what PostgreSQL takes outside a transaction only."""
    with _administration().connect() as connection:
        connection.execute(text(statement))
