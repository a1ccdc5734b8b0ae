"""A Kubernetes API server as far as EndpointSlices of one service go: lists, watches, faults."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import web

PATH = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices"


def endpoint(address: str, pod: str = "", **conditions: bool) -> dict[str, Any]:
    """One endpoint of a slice, and the pod that it leads to."""
    told: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    if pod:
        target = {"kind": "Pod", "namespace": "models", "name": pod, "uid": f"uid-of-{pod}"}
        told["targetRef"] = target
    return told


class Cluster:
    """Its slices, and all that happened to them; `handle` answers requests.

    A token other than `token` is 401. What happened before `oldest` is forgotten. `status` is the
    answer to watches where it is not 200.
    """

    def __init__(self) -> None:
        self.token = "the-token"
        self.slices: dict[str, dict[str, Any]] = {}
        self.version = 10
        self.oldest = 0
        self.status = 200
        self.lists: list[web.Request] = []
        self.watches: list[web.Request] = []
        self.refused = 0
        self._history: list[tuple[int, bytes]] = []
        self._open: dict[asyncio.Queue[bytes | None], web.Request] = {}

    @property
    def watched(self) -> int:
        """Watches that are open now."""
        return len(self._open)

    def put(
        self,
        name: str,
        *endpoints: dict[str, Any],
        port: int | None = 8001,
        family: str = "IPv4",
    ) -> None:
        """Make a slice, or replace it."""
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = {
            "metadata": {"name": name},
            "addressType": family,
            "ports": None if port is None else [{"name": "http", "port": port}],
            "endpoints": list(endpoints) or None,
        }
        self._happen(kind, self.slices[name])

    def delete(self, name: str) -> None:
        """Delete a slice."""
        self._happen("DELETED", self.slices.pop(name))

    def bookmark(self) -> None:
        """Tell the watches how far they are; something else has happened in the meantime."""
        self.version += 5
        mark = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self.version)}}
        self.say(event("BOOKMARK", mark))

    def say(self, line: bytes) -> None:
        """Send a line to all watches."""
        for queue in self._open:
            queue.put_nowait(line)

    def end(self) -> None:
        """End all watches as the server does when their time is over."""
        for queue in self._open:
            queue.put_nowait(None)

    def cut(self) -> None:
        """Break all connections of watches off."""
        for request in self._open.values():
            if request.transport is not None:
                request.transport.abort()
        self.end()

    def forget(self) -> None:
        """Forget all that has happened, as after a compaction."""
        self.version += 1
        self.oldest = self.version

    def expire(self) -> None:
        """Forget all, and tell the open watches so."""
        self.forget()
        self.say(event("ERROR", gone()))
        self.end()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or a watch."""
        if request.headers["authorization"] != f"Bearer {self.token}":
            self.refused += 1
            return web.json_response({"code": 401, "message": "Unauthorized"}, status=401)
        if request.query["labelSelector"] != "kubernetes.io/service-name=vllm":
            raise web.HTTPBadRequest
        if "watch" in request.query:
            return await self._watch(request)
        self.lists.append(request)
        meta = {"resourceVersion": str(self.version)}
        return web.json_response({"metadata": meta, "items": list(self.slices.values())})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(request)
        since = int(request.query["resourceVersion"])
        if self.status != 200:
            said = {"code": self.status, "message": "cannot watch resource"}
            return web.json_response(said, status=self.status)
        if since < self.oldest:
            return web.json_response(gone(), status=410)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, line in self._history:
            if version > since:
                queue.put_nowait(line)
        self._open[queue] = request
        answer = web.StreamResponse()
        with suppress(ConnectionError):  # the client is gone, or was cut off
            try:
                await answer.prepare(request)
                while (line := await queue.get()) is not None:
                    await answer.write(line)
            finally:
                del self._open[queue]
        return answer

    def _happen(self, kind: str, slice_: dict[str, Any]) -> None:
        self.version += 1
        slice_["metadata"]["resourceVersion"] = str(self.version)
        line = event(kind, slice_)
        self._history.append((self.version, line))
        self.say(line)


def event(kind: str, what: dict[str, Any]) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": what}).encode() + b"\n"


def gone() -> dict[str, Any]:
    """What the server says to one that asks for what it has forgotten."""
    told = {"reason": "Expired", "message": "too old resource version", "code": 410}
    return {"kind": "Status", "status": "Failure"} | told
