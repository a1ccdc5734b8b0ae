"""A client that stays but takes nothing more holds no call for ever."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.serving.http import ClientGone, cancelled_when_gone, read_body, start
from gateway.serving.protocol import ServingProtocol

PIECE = b"x" * 65536
STALLED_S = 1.0
"""Far longer than a busy machine keeps the slow client from reading."""


class Endless:
    """Answers without end, and notes when a client is gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive, 100)
        try:
            with cancelled_when_gone(scope):
                await start(send, 200, [])
                while True:
                    await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                    await asyncio.sleep(0)
        except ClientGone:
            self.gone.set()


async def test_a_client_that_reads_no_more_is_cut_off_and_a_slow_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.serving.protocol.STALLED_S", STALLED_S)
    app = Endless()
    config = uvicorn.Config(app, http=ServingProtocol, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listening]))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    began = time.monotonic()
    while time.monotonic() - began < 2 * STALLED_S:  # slow, but there
        await asyncio.sleep(0.1)
        async with asyncio.timeout(60):
            await reader.readexactly(4 * 1024 * 1024)
    assert not app.gone.is_set()
    async with asyncio.timeout(60):
        await app.gone.wait()
    writer.close()
    server.should_exit = True
    await running
    listening.close()
