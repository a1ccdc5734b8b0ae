"""Databases for tests: SQLite always, PostgreSQL where ADAPTERLOOP_TEST_POSTGRES holds a URL."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url

from deploy.migrations import upgrade
from gateway.registry.db import make_engine

POSTGRES = os.environ.get("ADAPTERLOOP_TEST_POSTGRES")
KINDS = ("sqlite", "postgresql") if POSTGRES else ("sqlite",)


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """A database without tables: a file, or a schema of its own on the given server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/adapterloop.db"
        return
    assert POSTGRES is not None
    schema = f"test_{secrets.token_hex(8)}"
    admin = make_engine(POSTGRES)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    try:
        url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
        yield url.render_as_string(hide_password=False)
    finally:
        with admin.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        admin.dispose()


@contextmanager
def migrated_database(kind: str, folder: Path, template: Path) -> Iterator[str]:
    """A database with all tables; SQLite's is a copy of `template`, made once."""
    with empty_database(kind, folder) as url:
        if kind == "sqlite":
            if not template.exists():
                upgrade(f"sqlite:///{template}")
            shutil.copyfile(template, folder / "adapterloop.db")
        else:
            upgrade(url)
        yield url
