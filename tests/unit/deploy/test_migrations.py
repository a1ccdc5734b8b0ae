"""Migrations and models say the same, and migrating again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import inspect, text

from deploy import migrations
from feedback.tables import FeedbackBase
from gateway.errors import StoreUnavailable
from gateway.registry.db import make_engine
from gateway.registry.tables import Base
from tests.unit.gateway.registry.stores import KINDS, empty_database


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


def test_no_difference_between_models_and_migrations(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    migrations.upgrade(url)
    migrations.upgrade(url)
    migrations.check(url)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("table", "column"), [("workers", "detail"), ("captures", "worker")])
def test_a_difference_is_told(url: str, table: str, column: str) -> None:
    migrations.upgrade(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    engine.dispose()
    with pytest.raises(CommandError, match=column):
        migrations.check(url)


def test_every_table_is_made(url: str) -> None:
    migrations.upgrade(url)
    engine = make_engine(url)
    tables = {**Base.metadata.tables, **FeedbackBase.metadata.tables}
    assert set(inspect(engine).get_table_names()) >= set(tables)
    engine.dispose()


def test_a_folder_is_made_for_sqlite(tmp_path: Path) -> None:
    migrations.upgrade(f"sqlite:///{tmp_path}/new/a%20b.db")
    assert any((tmp_path / "new").glob("*.db"))


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        migrations.upgrade(f"postgresql://u@/x?host={tmp_path}")
