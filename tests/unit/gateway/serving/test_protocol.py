"""Writes of one turn of the event loop leave together."""

from __future__ import annotations

import asyncio

from gateway.serving.protocol import JoinedWrites


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_what_is_written_in_one_turn_is_one_write() -> None:
    wire = Wire()
    joined = JoinedWrites(wire)
    joined.write(b"head, ")
    joined.write(b"body")
    assert wire.written == []
    await asyncio.sleep(0)
    joined.write(b"next")
    await asyncio.sleep(0)
    assert wire.written == [b"head, body", b"next"]


async def test_closing_writes_what_waits() -> None:
    wire = Wire()
    joined = JoinedWrites(wire)
    joined.write(b"last words")
    joined.close()
    assert (wire.written, wire.closed) == ([b"last words"], True)
    await asyncio.sleep(0)
    assert wire.written == [b"last words"]


async def test_nothing_is_written_to_a_lost_connection() -> None:
    wire = Wire()
    joined = JoinedWrites(wire)
    joined.write(b"too late")
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.written == []
