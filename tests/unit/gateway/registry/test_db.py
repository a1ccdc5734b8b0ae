"""A store that does not answer is told apart from everything else."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from deploy.migrations import upgrade
from gateway.errors import StoreUnavailable
from gateway.registry.db import make_engine, reading, server_time, writing
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerSpec
from tests.postgres import INSTALLED, PostgresServer, shared_server


@pytest.mark.parametrize("url", ["postgres://u@/x", "postgresql://u@/x"])
def test_plain_postgres_urls_get_the_driver_that_is_installed(url: str) -> None:
    assert make_engine(url).url.drivername == "postgresql+psycopg"


def test_sqlite_is_set_up(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as connection:
        found = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert found == ["wal", 1, 5000]


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    gone = f"sqlite:///{tmp_path}/nowhere/a.db"
    registry = Registry(make_engine(gone), tmp_path, base_model="b")
    with pytest.raises(StoreUnavailable) as caught:
        registry.revision()
    assert caught.value.status == 503
    with pytest.raises(StoreUnavailable):
        registry.create_key(tenant="default", owner="a", role="app")
    socketless = make_engine(f"postgresql://u@/x?host={tmp_path}")
    with pytest.raises(StoreUnavailable), reading(socketless):
        pass


@pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")
def test_a_host_that_is_gone_without_a_word_is_not_waited_for_long() -> None:
    engine = make_engine(f"{shared_server().url()}&keepalives_idle=9")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        told = driver.info.get_parameters()
    engine.dispose()
    assert (told["tcp_user_timeout"], told["keepalives_count"]) == ("10000", "3")
    assert told["keepalives_idle"] == "9", "who says otherwise has it"


@pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")
def test_after_a_failover_what_was_the_primary_takes_no_changes(tmp_path: Path) -> None:
    server = PostgresServer(durable=True).start()
    upgrade(server.url())
    registry = Registry(make_engine(server.url()), tmp_path, base_model="b")
    try:
        registry.prepare()
        server.stop()
        server.as_standby().start()
        for _ in range(2):  # on a connection that has read before, the server puts it otherwise
            with pytest.raises(StoreUnavailable):
                registry.create_key(tenant="default", owner="a", role="app")
            assert registry.revision() >= 0
    finally:
        registry.close()
        server.remove()


def test_a_failing_block_is_rolled_back(registry: Registry) -> None:
    def fail() -> None:
        with writing(registry._engine) as connection:
            connection.execute(text("INSERT INTO meta VALUES ('x', 'y')"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with reading(registry._engine) as connection:
        assert connection.scalar(text("SELECT value FROM meta WHERE key = 'x'")) is None


def test_a_reader_sees_one_state_while_others_write(registry: Registry) -> None:
    with reading(registry._engine) as connection:
        query = text("SELECT count(*) FROM workers")
        assert connection.scalar(query) == 0
        writer = threading.Thread(
            target=registry.upsert_worker, args=(WorkerSpec("w", "http://x"),)
        )
        writer.start()
        writer.join(10)
        assert connection.scalar(query) == 0
    with reading(registry._engine) as connection:
        assert connection.scalar(query) == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_many_that_wait_to_write_hold_up_no_reader_and_all_come_in(registry: Registry) -> None:
    engine = registry._engine
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            registry.upsert_worker(WorkerSpec(f"w{number}", "http://x"))
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(30)]
    with writing(engine):
        for writer in writers:
            writer.start()
        time.sleep(0.3)  # for them to come so far
        with reading(engine) as connection:
            assert connection.scalar(text("SELECT count(*) FROM workers")) == 0
    for writer in writers:
        writer.join()
    assert errors == []
    assert len(registry.snapshot().workers) == 30


def test_the_clock_that_all_share(registry: Registry) -> None:
    with reading(registry._engine) as connection:
        first = server_time(connection)
        assert first > 1e9
        assert server_time(connection) >= first
