"""The edge between ASGI and the pipeline: bodies in, answers and errors out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.errors import BodyTooLarge, GatewayError
from gateway.serving.protocol import EXTENSION, ServingProtocol

_encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")
Header = tuple[bytes, bytes]


class ClientGone(Exception):
    """The client has closed its connection."""


def header(scope: Scope, name: bytes) -> str | None:
    """Give a request header, or None. `name` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def read_body(receive: Receive, limit: int) -> bytes:
    """Read a request body. Raises `BodyTooLarge` past `limit` bytes, `ClientGone` on disconnect."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise BodyTooLarge(f"The request body may have at most {limit} bytes.")
        return body
    chunks, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise BodyTooLarge(f"The request body may have at most {limit} bytes.")
    return b"".join(chunks)


class cancelled_when_gone:
    """Cancel the block, and raise `ClientGone`, when the client closes its connection.

    Needs the server's `ServingProtocol`. Raises `ClientGone` where the client has left already.
    """

    __slots__ = ("_connection", "_gone", "_task")

    def __init__(self, scope: Scope) -> None:
        connection = scope["extensions"].get(EXTENSION)
        if connection is None:
            raise ClientGone
        self._connection: ServingProtocol = connection
        self._gone = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._connection.on_lost = self._lost

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._connection.on_lost = None
        if not self._gone or self._task is None:
            return
        cancelled = self._task.uncancel() > 0
        if kind is asyncio.CancelledError and not cancelled:
            raise ClientGone from None

    def _lost(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()


async def start(send: Send, status: int, headers: Iterable[Header]) -> None:
    """Send the head of an answer."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def send_json(
    send: Send, body: bytes, headers: Iterable[Header] = (), status: int = 200
) -> None:
    """Send a whole JSON answer."""
    length = (b"content-length", str(len(body)).encode())
    await start(send, status, [JSON, length, *headers])
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: GatewayError, headers: Iterable[Header] = ()) -> None:
    """Send OpenAI's error body."""
    extra = [*headers, *error.headers]
    if error.retry_after is not None:
        extra.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    await send_json(send, _encode(error.body), extra, error.status)
