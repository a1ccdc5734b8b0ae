"""The client towards workers: one small Protocol, and its implementation on httptools.

HTTP/1.1 only, POST with a JSON body only, no redirects, no cookies, no compression: all that a
worker on a private network needs, at a fraction of the CPU of a general client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Protocol

import httptools

from gateway.registry.snapshot import WorkerSpec
from gateway.serving.addresses import address_of
from gateway.settings import Timeouts, read_secret

_MAX_EVENT = 8 * 1024 * 1024
_HIGH_WATER = 1024 * 1024
_KEEP_IDLE = 4.0
"""Seconds an idle connection is kept: less than uvicorn's five, so that we close first."""


class UpstreamError(Exception):
    """A worker could not be reached, or its answer broke off."""


class UpstreamTimeout(UpstreamError):
    """A worker did not answer in time."""


class _Stale(UpstreamError):
    """A kept connection was closed by the worker before it took the call."""


class UpstreamAnswer(Protocol):
    """A worker's answer whose status is known."""

    status: int

    async def read(self) -> bytes:
        """Give the whole body. Raises `UpstreamError` when it breaks off."""
        ...

    def events(self) -> AsyncIterator[bytes]:
        """Give the data of each server-sent event, `[DONE]` included.

        Raises `UpstreamError` when the stream breaks off.
        """
        ...


class Upstream(Protocol):
    """Sends calls to workers. Leaving the context aborts the worker's call at once."""

    def post(
        self, worker: WorkerSpec, path: str, body: bytes
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a JSON body. Raises `UpstreamError` when no answer begins in time."""
        ...


class HttpUpstream:
    """`Upstream` over kept connections, a pool of them for each worker.

    A worker that hangs holds its own connections only. Timeouts are in seconds.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._idle: dict[str, deque[_Connection]] = {}
        self._open: set[_Connection] = set()

    def post(self, worker: WorkerSpec, path: str, body: bytes) -> _Posted:
        """Send a JSON body to a worker; see `Upstream`."""
        return _Posted(self, worker, path, body)

    async def close(self) -> None:
        """Close all connections."""
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def kept(self, url: str) -> _Connection | None:
        """Give an idle connection that is still fresh; stale ones are closed."""
        idle = self._idle.get(url)
        now = asyncio.get_running_loop().time()
        while idle:
            connection = idle.pop()
            if connection.usable and now - connection.idle_since < _KEEP_IDLE:
                return connection
            connection.abort()
        return None

    async def connect(self, url: str) -> _Connection:
        """Open a connection. Raises `UpstreamError`."""
        address = address_of(url)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._timeouts, partial(self._lost, url)),
                    address.host,
                    address.port,
                    ssl=address.tls or None,
                )
        except TimeoutError as error:
            raise UpstreamError("no connection in time") from error
        except OSError as error:
            raise UpstreamError(str(error) or type(error).__name__) from error
        self._open.add(connection)
        return connection

    def give_back(self, url: str, connection: _Connection) -> None:
        """Keep a connection whose answer was read to its end, and close any other."""
        if not connection.reusable:
            connection.abort()
            return
        now = connection.idle_since = asyncio.get_running_loop().time()
        idle = self._idle.setdefault(url, deque())
        idle.append(connection)
        while now - idle[0].idle_since >= _KEEP_IDLE:  # the newest is taken first
            idle.popleft().abort()

    def _lost(self, url: str, connection: _Connection) -> None:
        """Forget a connection that is closed, and with the last one its worker."""
        self._open.discard(connection)
        with suppress(KeyError, ValueError):
            self._idle[url].remove(connection)
        if not self._idle.get(url):
            self._idle.pop(url, None)


class _Posted:
    """One call to a worker, as a context."""

    __slots__ = ("_body", "_connection", "_path", "_upstream", "_url", "_worker")

    def __init__(self, upstream: HttpUpstream, worker: WorkerSpec, path: str, body: bytes) -> None:
        self._upstream = upstream
        self._worker = worker
        self._url = worker.url
        self._path = path
        self._body = body
        self._connection: _Connection | None = None

    async def __aenter__(self) -> UpstreamAnswer:
        request = self._request()
        self._connection = self._upstream.kept(self._url)
        if self._connection is not None:
            try:
                return await self._send(self._connection, request)
            except _Stale:
                self._connection = None
        self._connection = await self._upstream.connect(self._url)
        return await self._send(self._connection, request)

    async def __aexit__(self, *_: object) -> None:
        # Closing is what makes the worker stop.
        if self._connection is not None:
            self._upstream.give_back(self._url, self._connection)

    async def _send(self, connection: _Connection, request: bytes) -> UpstreamAnswer:
        try:
            await connection.send(request)
        except BaseException:
            connection.abort()
            raise
        return connection

    def _request(self) -> bytes:
        address = address_of(self._url)
        head = (
            f"POST {address.prefix}{self._path} HTTP/1.1\r\n"
            f"host: {address.authority}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self._body)}\r\n"
            f"{_authorization(self._worker)}\r\n"
        )
        return head.encode("latin-1") + self._body


class _Connection(asyncio.Protocol):
    """One connection to a worker; it answers one call at a time."""

    def __init__(self, timeouts: Timeouts, on_lost: Callable[[_Connection], None]) -> None:
        self.status = 0
        self.idle_since = 0.0
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._used = False
        self._complete = True
        self._keep = True
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._complete and self._error is None:
            fresh = not self.status and not self._size
            kind = _Stale if fresh and self._used else UpstreamError
            self._error = kind(str(exc) if exc else "the worker closed the connection")
        self._wake()
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        self._deadline = self._loop.time() + self._timeouts.idle
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._error = UpstreamError(f"the worker's answer is no HTTP: {error}")
            self.abort()
        self._wake()

    # httptools

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._size += len(body)
        if self._size > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep = self._parser.should_keep_alive()

    # calls

    @property
    def usable(self) -> bool:
        """Whether another call can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end, and the worker keeps the connection."""
        return self.usable and self._complete and self._keep and self._error is None

    async def send(self, request: bytes) -> None:
        """Send a request and wait for the head of the answer. Raises `UpstreamError`."""
        self._used = self._used or self.status != 0
        self.status, self._size, self._complete = 0, 0, False
        self._chunks.clear()
        self._deadline = self._loop.time() + self._timeouts.first_byte
        if self._transport is None:
            raise _Stale("the worker closed the connection")
        self._transport.write(request)
        while not self.status:
            await self._more()

    async def read(self) -> bytes:
        """Give the whole body; see `UpstreamAnswer`."""
        while not self._complete:
            await self._more()
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return body

    async def events(self) -> AsyncIterator[bytes]:
        """Give the data of each server-sent event; see `UpstreamAnswer`."""
        buffer = b""
        while True:
            data = self._taken()
            if not data:
                if self._complete:
                    return
                await self._more()
                continue
            buffer += data
            if b"\r" in buffer:
                buffer = buffer.replace(b"\r\n", b"\n")
            *whole, buffer = buffer.split(b"\n\n")
            if len(buffer) > _MAX_EVENT:
                raise UpstreamError("an event larger than 8 MiB")
            for event in whole:
                payload = _data_of(event)
                if payload is not None:
                    yield payload

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _taken(self) -> bytes:
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _more(self) -> None:
        """Wait until something has come. Raises `UpstreamError`."""
        self._check()
        if self._paused and self._transport is not None:
            # Whoever waits for a whole body takes all of it.
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            # It outlives the call: one timer per connection is cheaper than one per call.
            self._timer = self._loop.call_at(self._deadline, self._late)
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._check()

    def _check(self) -> None:
        if self._error is not None and not self._complete:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _late(self) -> None:
        """Give up if nothing has come; what came meanwhile has moved the deadline.

        A connection that nobody has used for long is closed, since its worker may be gone.
        """
        self._timer = None
        now = self._loop.time()
        due = self.idle_since + _KEEP_IDLE if self._complete else self._deadline
        if self._waiter is None and not self._complete:  # what has come is not read yet
            due = now + self._timeouts.idle
        if now < due:
            self._timer = self._loop.call_at(due, self._late)
        elif self._complete:
            self.abort()
        else:
            what = "the answer stopped" if self.status else "no answer in time"
            self._error = UpstreamTimeout(what)
            self._wake()


def _authorization(worker: WorkerSpec) -> str:
    variable = worker.options.api_key_env
    if variable is None:
        return ""
    secret = read_secret(variable)
    if secret is None:
        raise UpstreamError(f"the variable {variable} holds no key")
    return f"authorization: Bearer {secret}\r\n"


def _data_of(event: bytes) -> bytes | None:
    """Give the data of one event, or None for a comment or an event without data."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [
        line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
