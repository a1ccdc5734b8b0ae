"""HTTP with one worker, as every kind of admin client needs it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
import msgspec

from gateway.registry.snapshot import WorkerSpec
from gateway.settings import read_secret
from gateway.workers.errors import LoadRefused, WorkerSlow, WorkerUnreachable


class Reply(NamedTuple):
    """A worker's whole answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Card(msgspec.Struct):
    """A line of a model list; what follows `id` is told by some kinds only."""

    id: str
    aliases: list[str] = []
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[Card]


class Exchange:
    """Asks one worker.

    `timeout` bounds the cheap calls, `work_timeout` loads and measurements, which on a CPU under
    traffic take seconds.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        session: aiohttp.ClientSession,
        *,
        timeout: float = 5.0,
        work_timeout: float = 60.0,
    ) -> None:
        self.spec = spec
        self._url = spec.url.rstrip("/")
        self._session = session
        self._timeout = timeout
        self._work_timeout = work_timeout

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, work: bool = False
    ) -> Reply:
        """One exchange with a time limit; redirects are not followed, a worker sends none."""
        limit = self._work_timeout if work else self._timeout
        try:
            async with self._session.request(
                method,
                self._url + path,
                json=body,
                headers=self._headers(),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit),
            ) as answer:
                return Reply(answer.status, await answer.read(), answer.headers)
        except TimeoutError as error:
            raise WorkerSlow(f"{path} took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error

    def _headers(self) -> dict[str, str]:
        variable = self.spec.options.api_key_env
        if variable is None:
            return {}
        secret = read_secret(variable)
        if not secret:
            raise WorkerUnreachable(
                f"The variable {variable}, which api_key_env names, holds no key."
            )
        return {"authorization": f"Bearer {secret}"}

    async def cards(self) -> list[Card]:
        """The lines of `/v1/models`."""
        status, body, _ = await self.call("GET", "/v1/models")
        if status != HTTPStatus.OK:
            raise WorkerUnreachable(f"the model list answers {status} {reason(body)}")
        try:
            return msgspec.json.decode(body, type=_Cards).data
        except msgspec.DecodeError as error:
            raise WorkerUnreachable(f"the model list cannot be read: {error}") from error


class Fixed:
    """The part of an admin client of a kind whose adapters are those it was started with."""

    spec: WorkerSpec

    async def load(self, name: str, path: str) -> None:
        """Never: raises `LoadRefused`."""
        raise LoadRefused(f"Worker {self.spec.name} is {self.spec.kind}: it loads nothing later.")

    async def unload(self, name: str) -> None:
        """Never: raises `LoadRefused`."""
        raise LoadRefused(f"Worker {self.spec.name} is {self.spec.kind}: it unloads nothing.")


def reason(body: bytes) -> str:
    """The worker's own words, short enough for a log line."""
    try:
        error = msgspec.json.decode(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (msgspec.DecodeError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300]
