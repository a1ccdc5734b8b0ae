"""Promotions and rollbacks under streams over two gateways: `python -m bench.swaps`.

Both share one PostgreSQL, whose programs must be there. Every stream is read to its end and held
against what the alias led to meanwhile: no call may fail, be answered by a version that was not
due, or begin with one version's words and end with another's.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from bench.fleet import fleet
from tests.acceptance.live import Live
from tests.integration.stack import Stack
from tests.postgres import PostgresServer

STREAMS, SWAPS, PAUSE_S = 200, 100, 3.0
VISIBLE_ROUNDS = 20
VISIBLE_S = 1.0
"""After so long a change must hold on every gateway. Shorter than the pause, or nothing is told."""
TOKEN_S = 0.15

_CHAT = "/v1/chat/completions"
_MODEL = re.compile(rb'"model": ?"([^"]+)"')
_CREATED = re.compile(rb'"created": ?([0-9]+)')
_SAID = re.compile(r"I am (support@\d+)-")


@dataclass
class Seen:
    """What the streams saw."""

    requests: int = 0
    decided: int = 0
    """Calls that began when one version alone was due."""
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    mixed: int = 0

    def told(self) -> dict[str, int]:
        """The counts."""
        counts = {"requests": self.requests, "failed": len(self.failed)}
        return {**counts, "decided": self.decided, "wrong": self.wrong, "mixed": self.mixed}


class Timeline:
    """Which versions an alias led to, and when."""

    def __init__(self, model: str) -> None:
        self._since: list[tuple[float, str]] = [(0.0, model)]
        self._until: list[float] = []

    def moving(self, model: str) -> None:
        """The alias is about to be moved: from here on the new version may answer."""
        self._since.append((time.time(), model))

    def moved(self) -> None:
        """The alias has been moved: from here on the version before must not."""
        self._until.append(time.time() + VISIBLE_S)

    def due(self, began: float, resolved: float) -> set[str]:
        """Give the versions that may answer a call which began and was resolved then."""
        ends = [*self._until, *[inf] * (len(self._since) - len(self._until))]
        spans = zip(self._since, ends, strict=True)
        return {model for (since, model), until in spans if since <= resolved and began <= until}


async def _stream(http: aiohttp.ClientSession, live: Live, seen: Seen, line: Timeline) -> None:
    body = {"model": "support", "stream": True, "messages": [{"role": "user", "content": "Who?"}]}
    headers = {"authorization": f"Bearer {live.api_key}"}
    began = time.time()
    seen.requests += 1
    try:
        async with http.post(live.root + _CHAT, json=body, headers=headers) as answer:
            raw = await answer.read()
    except aiohttp.ClientError as error:
        seen.failed.append(repr(error))
        return
    if answer.status != 200 or not raw.endswith(b"data: [DONE]\n\n") or b'"error"' in raw:
        seen.failed.append(raw[-300:].decode(errors="replace"))
        return
    models = {name.decode() for name in _MODEL.findall(raw)}
    words = "".join(
        choice["delta"].get("content") or ""
        for event in raw.split(b"\n\n")[:-2]
        for choice in json.loads(event[6:])["choices"]
    )
    said = set(_SAID.findall(words))
    seen.mixed += len(models) != 1 or said != models
    # A gateway tells when it resolved the alias, in whole seconds; the headers wait for the guards.
    due = line.due(began, 1 + int(_CREATED.findall(raw)[0]))
    seen.decided += len(due) == 1
    seen.wrong += not models <= due


async def _swapping(stack: Stack, lives: list[Live], streams: int, swaps: int) -> Seen:
    seen, line, over = Seen(), Timeline("support@2"), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def caller(live: Live) -> None:
            while not over.is_set():
                await _stream(http, live, seen, line)

        async with asyncio.TaskGroup() as group:
            for at in range(streams):
                group.create_task(caller(lives[at % len(lives)]))
            for at in range(swaps):
                await asyncio.sleep(PAUSE_S)
                await _swap(http, lives[at % len(lives)], at, line)
            await asyncio.sleep(VISIBLE_S)
            over.set()
    return seen


async def _swap(http: aiohttp.ClientSession, live: Live, at: int, line: Timeline) -> None:
    """Move the alias between its two versions; every other time by a rollback."""
    headers = {"authorization": f"Bearer {live.admin_key}"}
    number = 1 + at % 2
    line.moving(f"support@{number}")
    how = ("promote", {"version": number}) if at % 4 < 2 else ("rollback", {})
    url = f"{live.root}/admin/v1/adapters/support/{how[0]}"
    async with http.post(url, json=how[1], headers=headers) as answer:
        told = await answer.json()
        if answer.status != 200 or told["stable"] != number:
            raise RuntimeError(f"{how[0]}: {answer.status} {told}")
    line.moved()


def visible_s(lives: list[Live], rounds: int) -> list[float]:
    """Seconds until a promote on one gateway is seen in the answers of another."""
    took = []
    body = {"model": "support", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    with lives[0].admin() as admin, lives[1].http() as other:
        for at in range(rounds):
            number = 1 + at % 2
            admin.post("/admin/v1/adapters/support/promote", json={"version": number})
            began = time.monotonic()
            while other.post(_CHAT, json=body).json().get("model") != f"support@{number}":
                time.sleep(0.01)
            took.append(time.monotonic() - began)
    return took


@contextmanager
def database() -> Iterator[str]:
    """The address of a PostgreSQL of its own."""
    server = PostgresServer(durable=True).start()
    try:
        yield server.url()
    finally:
        server.remove()


@contextmanager
def two_gateways(home: Path, **options: Any) -> Iterator[tuple[Stack, list[Live]]]:
    """Two gateways on two workers, with support@1, and support@2 promoted."""
    with fleet(home, workers=2, gateways=2, delay=TOKEN_S, **options) as stack:
        for number in (1, 2):
            stack.publish("support", stack.source(f"{number}", seed=number))
        lives = [stack.live, *(live for _, live in stack.others)]
        if not all(stack.routable(f"support@{number}") for number in (1, 2)):
            raise RuntimeError(f"the adapters are not served:\n{stack.controller.tail()}")
        yield stack, lives


def measure(streams: int = STREAMS, swaps: int = SWAPS) -> dict[str, Any]:
    """Give the figures `swaps` and `promote_visible_s`."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        database() as url,
        two_gateways(Path(folder), database_url=url) as (stack, lives),
    ):
        seen = asyncio.run(_swapping(stack, lives, streams, swaps))
        for worker in stack.workers:
            httpx.post(f"{worker.url}/_stub/script", json={"delay": 0.0}).raise_for_status()
        took = visible_s(lives, VISIBLE_ROUNDS)
    for words in seen.failed[:3]:
        print(f"failed: {words}")
    visible = {"p50": round(statistics.median(took), 3), "max": round(max(took), 3)}
    return {"swaps": {"count": swaps, **seen.told()}, "promote_visible_s": visible}


if __name__ == "__main__":
    print(json.dumps(measure()))
