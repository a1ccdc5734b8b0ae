"""The client towards workers: one small Protocol, and its implementation on aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import aiohttp

from gateway.registry.snapshot import WorkerSpec
from gateway.settings import Timeouts

_MAX_EVENT = 8 * 1024 * 1024


class UpstreamError(Exception):
    """A worker could not be reached, or its answer broke off."""


class UpstreamTimeout(UpstreamError):
    """A worker did not answer in time."""


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


class AiohttpUpstream:
    """`Upstream` on aiohttp, with a connection pool per worker."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=timeouts.connect,
            sock_read=max(timeouts.first_byte, timeouts.idle),
        )
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def _session(self, worker: WorkerSpec) -> aiohttp.ClientSession:
        session = self._sessions.get(worker.url)
        if session is None:
            # One pool a worker: a worker that hangs cannot take the connections of the others.
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
            self._sessions[worker.url] = session
        return session

    @asynccontextmanager
    async def post(
        self, worker: WorkerSpec, path: str, body: bytes
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send a JSON body to a worker; see `Upstream`."""
        try:
            response = await self._session(worker).post(
                worker.url + path, data=body, headers={"Content-Type": "application/json"}
            )
        except TimeoutError as error:
            raise UpstreamTimeout("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(str(error) or type(error).__name__) from error
        try:
            yield _Answer(response)
        finally:
            # A response read to its end has given its connection back to the pool; any other
            # connection is closed here, which is what makes the worker stop.
            response.close()

    async def close(self) -> None:
        """Close all pools."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


class _Answer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except TimeoutError as error:
            raise UpstreamTimeout("the answer stopped") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(str(error) or type(error).__name__) from error

    async def events(self) -> AsyncIterator[bytes]:
        buffer = b""
        try:
            async for data in self._response.content.iter_any():
                buffer += data
                *whole, buffer = buffer.replace(b"\r\n", b"\n").split(b"\n\n")
                if len(buffer) > _MAX_EVENT:
                    raise UpstreamError("an event larger than 8 MiB")
                for event in whole:
                    payload = _data_of(event)
                    if payload is not None:
                        yield payload
        except TimeoutError as error:
            raise UpstreamTimeout("the stream stopped") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(str(error) or type(error).__name__) from error


def _data_of(event: bytes) -> bytes | None:
    """Give the data of one event, or None for a comment or an event without data."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [
        line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
