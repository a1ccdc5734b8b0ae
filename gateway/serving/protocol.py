"""uvicorn's HTTP protocol, with what ASGI has no cheap way to say, and bounds that it lacks.

A call learns that its client is gone from a callback: waiting for `http.disconnect` takes a task of
its own per call. A client that takes nothing more, or sends nothing more of its request, counts as
gone after a while. A head is bounded: uvicorn would keep one that never ends. And the head and the
body of an answer leave with one write, not two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import BodyTooLarge

EXTENSION = "adapterloop.connection"
"""Where the scope holds the connection, under `extensions`."""


STALLED_S = 60.0
"""Seconds after which a client is cut off that takes nothing of what is written to it, does not end
its head, or sends nothing more of a body that is waited for."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers, or of what stands between two pieces of a body."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)


class ServingProtocol(HttpToolsProtocol):
    """One client's connection; it answers one request at a time."""

    on_lost: Callable[[], None] | None = None
    _stalled: asyncio.TimerHandle | None = None
    _loose = 0
    """Bytes that were received since the last whole head or piece of a body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        self._extensions: dict[str, Any] = {EXTENSION: self}
        super().connection_made(JoinedWrites(transport))
        self._waits_since = self.loop.time()
        self._watch = self.loop.call_later(STALLED_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call that is being answered."""
        super().connection_lost(exc)
        self._moves()
        self._watch.cancel()
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

    def data_received(self, data: bytes) -> None:
        """Read on; a head that has become too large is refused."""
        self._loose += len(data)
        super().data_received(data)
        if self._loose > MAX_HEAD and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._waits_since = self.loop.time()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Have a request answered."""
        self._loose = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._loose = 0
        if not self.cycle.response_complete:
            self._waits_since = self.loop.time()
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Wait for the next request; while nothing of it came, uvicorn ends the wait."""
        self._waits_since = self.loop.time() + self.timeout_keep_alive
        super().on_response_complete()

    def _refuse(self) -> None:
        """Cut off a client whose head has no end; one that is not being answered is told why."""
        if self.cycle is None or self.cycle.response_complete:
            error = BodyTooLarge(f"A request's head may have at most {MAX_HEAD} bytes.")
            body = msgspec.json.encode(error.body)
            self.transport.write(_TOO_LARGE % (len(body), body))
        self.transport.close()

    def _look(self) -> None:
        """Cut off a client that has been waited for too long."""
        now, cycle = self.loop.time(), self.cycle
        waits = cycle is None or cycle.response_complete
        if not waits and (not cycle.more_body or self.flow.read_paused):
            self._waits_since = now
        if now - self._waits_since >= STALLED_S:
            self.transport.abort()
            return
        self._watch = self.loop.call_at(self._waits_since + STALLED_S, self._look)


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
