"""The little of HTTP that the stub needs on top of ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .shapes import encode

Header = tuple[bytes, bytes]
JSON = (b"content-type", b"application/json")
PLAIN = (b"content-type", b"text/plain; charset=utf-8")
SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Cut(Exception):
    """The answer ends here."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with the connection in reach of the application."""

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self.scope["transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class Exchange:
    """One request and the way its answer goes."""

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self.scope = scope
        self.body = b""
        self._receive = receive
        self._send = send

    async def read(self) -> bool:
        """Read the body; False when the client left before it was complete."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                self.body = b"".join(parts)
                return True

    async def gone(self) -> None:
        """Return when the client has left (or the answer is complete)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: list[Header]) -> None:
        """Send the head of the answer."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the answer's body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def reply(self, status: int, body: bytes, kind: Header = JSON) -> None:
        """Send a whole answer."""
        await self.start(status, [kind, (b"content-length", str(len(body)).encode())])
        await self.write(body, more=False)

    async def fail(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        """Send an error in vLLM's shape."""
        error = {"message": message, "type": kind, "param": param, "code": status}
        await self.reply(status, encode({"error": error}))

    async def hang_up(self) -> None:
        """Close the connection in the middle of whatever it is in."""
        self.scope["transport"].close()
        await asyncio.sleep(0.01)
        raise Cut
