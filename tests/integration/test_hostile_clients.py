"""Clients that send what never ends, or never come to an end, cost no memory and no connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.serving.http import ClientGone, read_body, send_json
from gateway.serving.protocol import MAX_HEAD, ServingProtocol

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
BODY = b"0123456789"
REFUSED = b"HTTP/1.1 431 "


class Reader:
    """Says how long a body was, and notes those that never came to their end."""

    def __init__(self) -> None:
        self.gone = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/unread":
            await send_json(send, b"{}")
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(3.5)
        try:
            body = await read_body(receive, 10**7)
        except ClientGone:
            self.gone += 1
            return
        await send_json(send, str(len(body)).encode())


@asynccontextmanager
async def serving(app: Reader, keep_alive: int = 5) -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(
        app,
        http=ServingProtocol,
        lifespan="off",
        log_level="error",
        timeout_keep_alive=keep_alive,
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listening]))
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = server.force_exit = True
        await running
        listening.close()


async def flood(address: tuple[str, int], start: bytes, piece: bytes) -> tuple[int, bytes]:
    """Send a start and then pieces without end; how many were taken, and what came back."""
    reader, writer = await asyncio.open_connection(*address)
    sent = 0
    try:
        writer.write(start)
        for _ in range(10_000):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            sent += len(piece)
    except ConnectionError:
        pass
    answer = b""
    try:
        async with asyncio.timeout(5):
            answer = await reader.read()
    except ConnectionError:
        pass
    writer.close()
    return sent, answer


FLOODS = {
    "headers": (HEAD, b"x-a: " + b"b" * 10_000 + b"\r\n"),
    "one header": (HEAD + b"x-a: ", b"b" * 10_000),
    "its name": (HEAD, b"b" * 10_000),
    "address": (b"GET /", b"b" * 10_000),
    "trailers": (
        HEAD + b"transfer-encoding: chunked\r\n\r\na\r\n" + BODY + b"\r\n0\r\n",
        b"x-a: " + b"b" * 10_000 + b"\r\n",
    ),
    "trailers of what is answered": (
        HEAD.replace(b"/ ", b"/unread ") + b"transfer-encoding: chunked\r\n\r\n0\r\n",
        b"x-a: " + b"b" * 10_000 + b"\r\n",
    ),
    "a chunk's extension": (
        HEAD + b"transfer-encoding: chunked\r\n\r\na",
        b";a=" + b"b" * 10_000,
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_head_without_end_is_cut_off(kind: str) -> None:
    async with serving(Reader()) as address:
        sent, answer = await flood(address, *FLOODS[kind])
    assert sent < 20_000_000  # what lies in the sockets' buffers
    assert answer == b"" or answer.startswith((REFUSED, b"HTTP/1.1 200 "))


async def test_what_is_too_large_is_told() -> None:
    """The client has sent all of it, so that it reads the answer."""
    async with serving(Reader()) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD + b"x-a: " + b"b" * MAX_HEAD)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(REFUSED)
    assert b'"code":"request_too_large"' in answer


async def test_long_heads_and_bodies_in_small_pieces_are_taken() -> None:
    small = b"".join(b"1\r\na\r\n" for _ in range(MAX_HEAD // 2))
    whole = HEAD + b"x-a: " + b"b" * (MAX_HEAD - 1000) + b"\r\n"
    requests = [
        whole + b"content-length: 10\r\n\r\n" + BODY,
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + small + b"0\r\n\r\n",
        HEAD + b"content-length: 1000000\r\n\r\n" + b"c" * 10**6,
        HEAD + b"content-length: 10\r\n\r\n" + BODY,
    ]
    async with serving(Reader()) as address:
        reader, writer = await asyncio.open_connection(*address)
        for request, length in zip(requests, (10, MAX_HEAD // 2, 10**6, 10), strict=True):
            writer.write(request)
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(len(str(length))) == str(length).encode()
        writer.close()


WAITS = {
    "says nothing": b"",
    "in its head": HEAD,
    "in its body": HEAD + b"content-length: 10\r\n\r\n01234",
    "after an answer": b"GET /unread HTTP/1.1\r\nhost: x\r\n\r\nGET",
}


@pytest.mark.parametrize("kind", WAITS)
async def test_a_client_that_does_not_come_to_an_end_is_cut_off(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.serving.protocol.STALLED_S", 0.3)
    app = Reader()
    async with serving(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(WAITS[kind])
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
    assert app.gone == (kind == "in its body")


async def test_one_that_is_slow_but_sends_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serving.protocol.STALLED_S", 0.5)
    async with serving(Reader()) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD + b"content-length: 10\r\n\r\n")
        for at in range(10):
            await asyncio.sleep(0.15)
            writer.write(BODY[at : at + 1])
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_an_idle_connection_is_kept_as_long_as_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.serving.protocol.STALLED_S", 0.2)
    async with serving(Reader(), keep_alive=2) as address:
        reader, writer = await asyncio.open_connection(*address)
        for idle in (1.0, 0.0):
            writer.write(HEAD + b"content-length: 10\r\n\r\n" + BODY)
            async with asyncio.timeout(10):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(2) == b"10"
            await asyncio.sleep(idle)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_after_a_long_answer_a_connection_is_as_good_as_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time that the answer took is not the client's."""
    monkeypatch.setattr("gateway.serving.protocol.STALLED_S", 2.0)
    quick = HEAD + b"content-length: 10\r\n\r\n" + BODY
    slow = quick.replace(b"/ ", b"/slow ", 1)
    async with serving(Reader()) as address:
        reader, writer = await asyncio.open_connection(*address)
        for request, idle in ((slow, 1.25), (quick, 0.0)):
            writer.write(request)
            async with asyncio.timeout(10):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(2) == b"10"
            await asyncio.sleep(idle)
        writer.close()
