"""Live traffic while a canary runs: many users, each with a session of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from deploy.demo.api import Gateway, ask
from trainer.rows import Row

USERS = 8


@dataclass
class Swap:
    """What live traffic saw: calls, failed ones, and answers of a version that was not due."""

    requests: int = 0
    failed: int = 0
    wrong_version: int = 0
    by_model: dict[str, int] = field(default_factory=dict)

    def note(self, model: str, *, failed: bool, due: Collection[str]) -> None:
        """Count one call."""
        self.requests += 1
        self.failed += failed
        if not failed:
            self.wrong_version += model not in due
            self.by_model[model] = self.by_model.get(model, 0) + 1


class Traffic:
    """Asks an alias without a pause while the block runs.

    `due` are the models that may answer: the stable version and the candidate.
    """

    def __init__(
        self, gateway: Gateway, alias: str, rows: Sequence[Row], due: Collection[str], swap: Swap
    ) -> None:
        self._gateway, self._alias, self._rows = gateway, alias, rows
        self._due, self._swap = due, swap
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    async def _run(self) -> None:
        async with self._gateway.app() as client, asyncio.TaskGroup() as group:
            for user in range(USERS):
                group.create_task(self._user(client, user))

    async def _user(self, client: httpx.AsyncClient, user: int) -> None:
        call = 0
        while not self._ended.is_set():
            row = self._rows[(user + call * USERS) % len(self._rows)]
            # A new session each time, so that the canary's share of the sessions is met quickly.
            said = await ask(client, self._alias, row, f"user-{user}-{call}")
            self._swap.note(said.model, failed=said.id is None, due=self._due)
            call += 1
