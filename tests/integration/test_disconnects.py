"""A client that leaves takes its call with it: on every route, streamed or not, at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest

from tests.acceptance.live import wait_for
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .stack import Stack
from .wire import ROUTES, body_for

ROUNDS = 17  # times 12 cases: 204 clients that leave
LONG = "The train leaves at noon and arrives in the evening. " * 40


class Leaver:
    """A client on a bare socket, which can leave at any time and in any way."""

    def __init__(self, stack: Stack, route: str, *, stream: bool) -> None:
        self._port = stack.port
        body = json.dumps(body_for(route, "support", "Hello", stream=stream)).encode()
        head = (
            f"POST {route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {stack.live.api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    async def send(self) -> None:
        """Connect and send the call."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._request)
        await self._writer.drain()

    async def read_text(self) -> None:
        """Read until some of the answer's text has come."""
        await self._reader.readuntil(b"The train")

    async def leave(self, *, reset: bool) -> None:
        """Close, or break, the connection."""
        if reset:
            self._writer.transport.abort()
        else:
            self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def running(stub: StubWorker, count: int) -> bool:
    """Whether so many calls come to run at once."""
    return await asyncio.to_thread(wait_for, lambda: stub.seen.running == count, 20)


def sockets_of(pid: int) -> int:
    """How many sockets a process holds."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += "socket:" in str(entry.readlink())
        except OSError:
            continue
    return count


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unary"])
@pytest.mark.parametrize("moment", ["before the first token", "midway"])
async def test_leaving_stops_the_worker(
    stack: Stack, stub: StubWorker, route: str, stream: bool, moment: str
) -> None:
    """Within a second: the quickest of three tells, as a machine that stalls only adds to it."""
    took = []
    while not took or (min(took) > 1.0 and len(took) < 3):
        took.append(await all_leave(stack, stub, route, stream=stream, early=moment != "midway"))
    assert min(took) <= 1.0, took


async def all_leave(
    stack: Stack, stub: StubWorker, route: str, *, stream: bool, early: bool
) -> float:
    """Have clients call and leave; the seconds until the worker ran nothing more."""
    # Those that look after the worker keep some six; what other calls left open would hide a leak.
    await asyncio.to_thread(wait_for, lambda: stub.open_connections < ROUNDS / 2, 8)
    aborted, before = stub.seen.aborted, sockets_of(stack.gateway.pid)
    stub.script = Script(text=LONG, first_delay=60 if early else 0, delay=0.1)
    clients = [Leaver(stack, route, stream=stream) for _ in range(ROUNDS)]
    for client in clients:
        await client.send()
    assert await running(stub, ROUNDS)
    if stream and not early:
        await asyncio.gather(*(client.read_text() for client in clients))
    elif not early:
        await asyncio.sleep(0.2)
    for at, client in enumerate(clients):
        await client.leave(reset=at % 2 == 0)
    left = time.monotonic()
    assert await asyncio.to_thread(stub.wait_idle, 20), f"{stub.seen.running} still run"
    took = time.monotonic() - left
    assert stub.seen.aborted == aborted + ROUNDS
    # Neither side keeps a connection of a call that was broken off.
    gone = await asyncio.to_thread(wait_for, lambda: sockets_of(stack.gateway.pid) <= before, 20)
    assert gone, f"{sockets_of(stack.gateway.pid)} sockets, {before} before"
    return took


async def test_leaving_before_the_body_is_complete(stack: Stack, stub: StubWorker) -> None:
    before = stub.seen.paths["/v1/chat/completions"]
    for _ in range(20):
        client = Leaver(stack, ROUTES[0], stream=True)
        client._request = client._request[:-10]
        await client.send()
        await client.leave(reset=True)
    await asyncio.sleep(0.3)
    assert stub.seen.paths["/v1/chat/completions"] == before
    assert stack.callable("support")


async def test_one_leaves_of_many_and_the_others_get_all(stack: Stack, stub: StubWorker) -> None:
    script = stub.script = Script(delay=1.0)
    stayers = [Leaver(stack, ROUTES[0], stream=True) for _ in range(4)]
    leavers = [Leaver(stack, ROUTES[0], stream=True) for _ in range(4)]
    for client in (*stayers, *leavers):
        await client.send()
    assert await running(stub, 8)
    for client in leavers:
        await client.leave(reset=False)
    assert await running(stub, 4)
    script.delay = 0.0  # the rest at once
    ends = await asyncio.gather(*(c._reader.readuntil(b"data: [DONE]") for c in stayers))
    assert all(b"on time." in end for end in ends)
    for client in stayers:
        await client.leave(reset=False)
