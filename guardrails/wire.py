"""What goes over the guard process's socket.

Each message is a 4-byte big-endian length and a msgpack array. A client sends `Ask`s and gets an
`Answer` for each, in any order, matched by `id`. On connecting it gets an `Answer` with id 0 that
names the versions of the guards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from guardrails.types import Finding, Passage

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the longest message that either side takes."""

_PREFIX = 4


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """Passages for guards to judge."""

    id: int
    guards: tuple[str, ...]
    passages: tuple[Passage, ...]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The findings of each passage; or `error`, which then says why there are none."""

    id: int
    findings: tuple[tuple[Finding, ...], ...] = ()
    error: str | None = None
    versions: dict[str, str] | None = None


def frame(message: bytes) -> bytes:
    """Put the length before a message."""
    return len(message).to_bytes(_PREFIX, "big") + message


class Framed(asyncio.Protocol):
    """Cuts a byte stream into messages. A message that is too long ends the connection.

    What is sent within one turn of the event loop goes out with one write: each one wakes the
    other side.
    """

    def __init__(
        self, on_message: Callable[[bytes], None], on_lost: Callable[[], None] | None = None
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._on_lost is not None:
            self._on_lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _PREFIX:
            size = int.from_bytes(buffer[at : at + _PREFIX], "big")
            if size > MAX_MESSAGE:
                self.abort()
                return
            end = at + _PREFIX + size
            if len(buffer) < end:
                break
            self._on_message(bytes(buffer[at + _PREFIX : end]))
            at = end
        if at:
            del buffer[:at]

    def send(self, message: bytes) -> None:
        """Send one message."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(frame(message))

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()
