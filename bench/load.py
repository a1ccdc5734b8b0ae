"""A load of HTTP calls over a fixed number of connections, as light as Python allows."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_TAIL = b"0\r\n\r\n"


class LoadError(Exception):
    """A call was not answered with 200."""


def make_call(path: str, key: str, body: dict[str, Any]) -> bytes:
    """The bytes of one POST with a JSON body."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def run_load(port: int, call: bytes, *, calls: int, connections: int) -> int:
    """Send a call `calls` times over `connections` connections; give the bytes received.

    Raises `LoadError` for an answer that is not 200.
    """
    left = iter(range(calls))

    async def worker() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        received = 0
        try:
            for _ in left:
                writer.write(call)
                received += await _read_answer(reader)
        finally:
            writer.close()
            await writer.wait_closed()
        return received

    return sum(await asyncio.gather(*(worker() for _ in range(connections))))


async def _read_answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadError(head.decode(errors="replace") + (await reader.read(500)).decode())
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        length = int(lower[at + 15 : lower.index(b"\r\n", at)])
        await reader.readexactly(length)
        return len(head) + length
    # Chunked: the last chunk alone ends in this; server-sent events never hold a bare 0 line.
    return len(head) + len(await reader.readuntil(b"\r\n" + _TAIL))
