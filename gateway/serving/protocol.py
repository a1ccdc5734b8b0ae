"""uvicorn's HTTP protocol, with three things added that ASGI has no cheap way to say.

A call learns that its client is gone from a callback: waiting for `http.disconnect` takes a task of
its own per call. A client that takes nothing more counts as gone after a while. And the head and
the body of an answer leave with one write, not two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "adapterloop.connection"
"""Where the scope holds the connection, under `extensions`."""


STALLED_S = 60.0
"""Seconds after which a client is cut off that takes nothing of what is written to it."""


class ServingProtocol(HttpToolsProtocol):
    """One client's connection; it answers one request at a time."""

    on_lost: Callable[[], None] | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        self._extensions: dict[str, Any] = {EXTENSION: self}
        super().connection_made(JoinedWrites(transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call that is being answered."""
        super().connection_lost(exc)
        self._moves()
        self._extensions.clear()
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """Wait for a client that reads more slowly than it is written to, but not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Write again: it has read."""
        super().resume_writing()
        self._moves()

    def _moves(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


class JoinedWrites(asyncio.Transport):
    """A transport that writes once what it is given within one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write soon."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Write what waits, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever waits."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell of the socket."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)
