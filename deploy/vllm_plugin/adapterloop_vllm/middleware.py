"""Lets vLLM load adapters that lie in the registry's storage, wherever the worker runs.

`--middleware adapterloop_vllm.middleware.FetchAdapters` puts this before vLLM's own routes. A load
whose path ends in adapters/<sha256> and is no folder of this machine gets one, fetched from
ADAPTERLOOP_STORAGE and verified, before vLLM sees the request; everything else passes untouched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .cache import AdapterCache, Hold
from .source import AdapterDamaged, AdapterUnavailable, open_source

logger = logging.getLogger("vllm.adapterloop")

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
STORAGE, CACHE, CACHE_GIB = "ADAPTERLOOP_STORAGE", "ADAPTERLOOP_CACHE", "ADAPTERLOOP_CACHE_GIB"
_KEPT = re.compile(r".*/adapters/([0-9a-f]{64})")
_GIB = 1024**3

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def cache_from(variables: Mapping[str, str]) -> AdapterCache:
    """Make the cache that the environment asks for. Raises `AdapterUnavailable`."""
    source = open_source(variables.get(STORAGE, ""))
    root = Path(variables.get(CACHE) or "~/.cache/adapterloop").expanduser()
    try:
        gib = float(variables.get(CACHE_GIB) or 20)
    except ValueError as error:
        raise AdapterUnavailable(f"{CACHE_GIB} must be a number.") from error
    return AdapterCache(root, source, int(gib * _GIB))


class FetchAdapters:
    """ASGI middleware around vLLM's server."""

    def __init__(self, app: App, variables: Mapping[str, str] = os.environ) -> None:
        self._app = app
        self._cache: AdapterCache | AdapterUnavailable
        try:
            self._cache = cache_from(variables)
        except AdapterUnavailable as error:
            logger.error("adapters of the storage cannot be loaded: %s", error)
            self._cache = error
        self._held: dict[str, Hold] = {}
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; loads and unloads with what they need here."""
        change = scope["type"] == "http" and scope["method"] == "POST"
        if change and scope["path"] == LOAD:
            await self._load(scope, receive, send)
        elif change and scope["path"] == UNLOAD:
            await self._unload(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _load(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        wanted = _object(body)
        name, sha256 = wanted.get("lora_name"), _digest(wanted.get("lora_path"))
        if not isinstance(name, str) or sha256 is None:
            await self._pass(scope, receive, send, body)
            return
        try:
            hold = await self._hold(sha256)
        except AdapterUnavailable as error:
            await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        except AdapterDamaged as error:
            await _refuse(send, HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            return
        status = 0
        try:
            body = json.dumps({**wanted, "lora_path": str(hold.path)}).encode()
            status = await self._pass(scope, receive, send, body)
        finally:
            if status == HTTPStatus.OK:
                self._forget(name)
                self._held[name] = hold
            else:
                hold.release()

    async def _hold(self, sha256: str) -> Hold:
        if isinstance(self._cache, AdapterUnavailable):
            raise self._cache
        # One fetch at a time: two calls for the same adapter would both fetch it.
        async with self._turn:
            return await asyncio.to_thread(self._cache.hold, sha256)

    async def _unload(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        status = await self._pass(scope, receive, send, body)
        if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            self._forget(str(_object(body).get("lora_name")))

    def _forget(self, name: str) -> None:
        hold = self._held.pop(name, None)
        if hold is not None:
            hold.release()

    async def _pass(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> int:
        """Pass a request on with this body; give the status that it was answered with."""
        others = [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]
        headers = [*others, (b"content-length", str(len(body)).encode())]
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status = 0

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app({**scope, "headers": headers}, replay, note)
        return status


async def _body(receive: Receive) -> bytes:
    """Read a request's body; what a client that leaves has sent is no JSON to anybody."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _object(body: bytes) -> dict[str, Any]:
    """Give the JSON object that a body holds, else an empty one."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _digest(path: object) -> str | None:
    """Give the digest of an adapter that has to be fetched."""
    kept = _KEPT.fullmatch(path) if isinstance(path, str) else None
    return kept[1] if kept and not Path(kept[0]).is_dir() else None


async def _refuse(send: Send, status: HTTPStatus, message: str) -> None:
    """Answer as vLLM does."""
    logger.error(message)
    error = {"message": message, "type": status.phrase, "param": "lora_path", "code": status.value}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
