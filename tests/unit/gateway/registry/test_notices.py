from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from gateway.registry.db import make_engine
from gateway.registry.notices import listen
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerSpec
from tests.postgres import INSTALLED

needs_postgres = pytest.mark.skipif(not INSTALLED, reason="needs PostgreSQL's programs")


@pytest.fixture
async def heard(url: str) -> AsyncIterator[asyncio.Event]:
    """Set whenever the registry tells of a change; begins with the first one, unset."""
    event = asyncio.Event()
    task = asyncio.create_task(listen(url, event.set))
    if url.startswith("postgresql"):
        await first(event)
    yield event
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def first(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()
    event.clear()


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_change_is_heard_at_once_and_once_it_is_there(
    registry: Registry, heard: asyncio.Event
) -> None:
    before = registry.revision()
    await asyncio.to_thread(registry.upsert_worker, WorkerSpec("w", "http://w"))
    await first(heard)
    assert registry.revision() == before + 1


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_what_changes_nothing_is_not_told(registry: Registry, heard: asyncio.Event) -> None:
    await asyncio.to_thread(registry.heartbeat, "gateway-1", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await heard.wait()


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_lost_connection_is_made_anew(
    url: str, registry: Registry, heard: asyncio.Event
) -> None:
    def cut() -> None:
        listening = "FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN'"
        engine = make_engine(url)
        with engine.begin() as connection:
            ended = connection.scalars(text(f"SELECT pg_terminate_backend(pid) {listening}")).all()
        engine.dispose()
        assert ended == [True]

    await asyncio.to_thread(cut)
    await first(heard)  # it listens again, and had better look
    await asyncio.to_thread(registry.upsert_worker, WorkerSpec("w", "http://w"))
    await first(heard)


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_host_that_is_gone_without_a_word_is_not_listened_to_for_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    made: list[psycopg.AsyncConnection] = []
    connect = psycopg.AsyncConnection.connect

    async def noted(address: str, **options: Any) -> psycopg.AsyncConnection:
        made.append(await connect(address, **options))
        return made[0]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", noted)
    event = asyncio.Event()
    task = asyncio.create_task(listen(f"{url}&keepalives_idle=9", event.set))
    await first(event)
    told = made[0].info.get_parameters()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert (told["keepalives_interval"], told["keepalives_count"]) == ("2", "3")
    assert told["keepalives_idle"] == "9", "who says otherwise has it"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_sqlite_cannot_tell(url: str) -> None:
    async with asyncio.timeout(1):
        await listen(url, pytest.fail)
