"""The client towards workers against servers that behave badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.registry.snapshot import WorkerSpec
from gateway.serving.upstream import HttpUpstream, UpstreamError, UpstreamTimeout
from gateway.settings import Timeouts
from tests.unit.gateway.mentions import mentions

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENT, SHORT = Timeouts(), Timeouts(first_byte=0.3)


@asynccontextmanager
async def served(
    handler: Handler, timeouts: Timeouts = PATIENT, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[HttpUpstream, WorkerSpec]]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, host, 0)
    port = server.sockets[0].getsockname()[1]
    upstream = HttpUpstream(timeouts)
    try:
        written = f"[{host}]" if ":" in host else host
        yield upstream, WorkerSpec("w", f"http://{written}:{port}")
    finally:
        await upstream.close()
        server.close()
        await asyncio.sleep(0.02)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def answer(body: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (extra, len(body), body)


async def read(upstream: HttpUpstream, worker: WorkerSpec, body: bytes = b"{}") -> bytes:
    async with upstream.post(worker, "/x", body) as response:
        return await response.read()


async def test_a_connection_is_kept_and_used_again() -> None:
    connections = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            writer.write(answer(await request_of(reader)))

    async with served(echo) as (upstream, worker):
        for number in range(5):
            body = b"%d" % number
            assert await read(upstream, worker, body) == body
    assert connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_host_is_written_as_in_the_url(host: str) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(head.split(b"\r\nhost: ")[1].split(b"\r\n")[0]))

    async with served(tell, host=host) as (upstream, worker):
        assert worker.url == f"http://{(await read(upstream, worker)).decode()}"


async def test_connections_that_a_burst_has_left_are_closed_while_calls_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.serving.upstream._KEEP_IDLE", 0.1)
    opened = held = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, held
        opened, held = opened + 1, held + 1
        try:
            while True:
                writer.write(answer(await request_of(reader)))
        finally:
            held -= 1

    async with served(echo) as (upstream, worker):
        await asyncio.gather(*(read(upstream, worker) for _ in range(8)))
        assert opened == 8
        async with asyncio.timeout(30):
            while held > 1:
                await asyncio.sleep(0.05)
                await read(upstream, worker)


async def test_a_worker_that_is_gone_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serving.upstream._KEEP_IDLE", 0.1)
    left = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await request_of(reader)))
        await reader.read()  # it keeps the connection, for as long as the other side does
        left.set()

    async with served(echo, Timeouts(first_byte=1)) as (upstream, worker):
        await read(upstream, worker)
        assert mentions(upstream, worker.url)
        async with asyncio.timeout(30):
            await left.wait()
        assert mentions(upstream, worker.url) == []


async def test_a_kept_connection_that_the_worker_closed_is_replaced_unnoticed() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await request_of(reader)))
        await request_of(reader)  # taken, and the connection closed without a word

    async with served(once) as (upstream, worker):
        for number in range(3):
            assert await read(upstream, worker, b"%d" % number) == b"%d" % number


async def test_connection_close_is_obeyed() -> None:
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(answer(await request_of(reader), b"connection: close\r\n"))
        await asyncio.sleep(0.2)

    async with served(once) as (upstream, worker):
        await read(upstream, worker)
        await read(upstream, worker)
    assert connections == 2


async def test_no_answer_is_a_time_out_before_the_first_byte() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await asyncio.sleep(60)

    async with served(silent, SHORT) as (upstream, worker):
        with pytest.raises(UpstreamTimeout, match="no answer in time"):
            await read(upstream, worker)


async def test_a_stream_that_stops_is_a_time_out_of_its_own() -> None:
    async def stops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await asyncio.sleep(60)

    async with (
        served(stops, Timeouts(idle=0.3)) as (upstream, worker),
        upstream.post(worker, "/x", b"") as response,
    ):
        events = response.events()
        assert await anext(events) == b"1"
        with pytest.raises(UpstreamTimeout, match="the answer stopped"):
            await anext(events)


@pytest.mark.parametrize(
    "reply", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
)
async def test_what_breaks_off_is_an_error(reply: bytes) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(reply)

    async with served(breaks) as (upstream, worker):
        with pytest.raises(UpstreamError):
            await read(upstream, worker)


async def test_nobody_listening_is_an_error() -> None:
    upstream = HttpUpstream(PATIENT)
    with pytest.raises(UpstreamError):
        await read(upstream, WorkerSpec("w", "http://127.0.0.1:9"))


async def test_leaving_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        assert await reader.read() == b""
        closed.set()

    async with served(endless) as (upstream, worker):
        async with upstream.post(worker, "/x", b"") as response:
            assert await anext(response.events()) == b"1"
        async with asyncio.timeout(10):
            await closed.wait()


async def test_events_may_be_cut_anywhere() -> None:
    raw = b": hello\r\n\r\ndata: one\r\n\r\ndata: two\ndata: lines\n\nevent: x\ndata:three\n\n"

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for byte in raw:
            writer.write(b"1\r\n%c\r\n" % byte)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with served(cut) as (upstream, worker), upstream.post(worker, "/x", b"") as response:
        assert [event async for event in response.events()] == [b"one", b"two\nlines", b"three"]


async def test_a_body_larger_than_the_high_water_mark_arrives_whole() -> None:
    body = bytes(5_000_000)

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer(body))
        await writer.drain()
        await asyncio.sleep(0.2)

    async with served(large) as (upstream, worker):
        assert await read(upstream, worker) == body
