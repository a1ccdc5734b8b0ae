"""The gateway as the demo's people see it: an app, its users, a reviewer, an operator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from trainer.rows import Row, to_prompt

AT_ONCE = 16
TOKENS = 48


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as an app got it; `id` is None where the call failed."""

    row: Row
    id: str | None
    model: str
    text: str
    confidence: float | None


class Gateway:
    """The API with the home's keys. Raises `httpx.HTTPError` and, for refusals, RuntimeError."""

    def __init__(self, url: str, keys: Mapping[str, str]) -> None:
        self.url = url
        self._keys = keys

    def admin(self, method: str, path: str, **options: Any) -> Any:
        """Call the admin API as its owner."""
        return self._call("ADAPTERLOOP_ADMIN_KEY", method, f"/admin/v1{path}", **options)

    def review(self, method: str, path: str, **options: Any) -> Any:
        """Call the review API as a reviewer."""
        path = f"/admin/v1/review{path}"
        return self._call("ADAPTERLOOP_REVIEWER_KEY", method, path, **options)

    def flag(self, response_id: str) -> None:
        """Say as a user that an answer was wrong."""
        body = {"response_id": response_id, "rating": "down"}
        self._call("OPENAI_API_KEY", "POST", "/v1/feedback", json=body)

    def answers(
        self, model: str, rows: Sequence[Row], told: Callable[[int], None] = lambda done: None
    ) -> list[Said]:
        """Ask all rows as an app does, a few at once; in the order of the rows."""
        return asyncio.run(self._answers(model, rows, told))

    async def _answers(
        self, model: str, rows: Sequence[Row], told: Callable[[int], None]
    ) -> list[Said]:
        slots, done = asyncio.Semaphore(AT_ONCE), 0
        async with self.app() as client:

            async def one(row: Row) -> Said:
                nonlocal done
                async with slots:
                    said = await ask(client, model, row)
                done += 1
                told(done)
                return said

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(row)) for row in rows]
        return [task.result() for task in tasks]

    def app(self) -> httpx.AsyncClient:
        """Open a client with the app's key."""
        return httpx.AsyncClient(
            base_url=self.url, headers=self._headers("OPENAI_API_KEY"), timeout=300, trust_env=False
        )

    def _headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._keys[key]}"}

    def _call(self, key: str, method: str, path: str, **options: Any) -> Any:
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as client:
            response = client.request(method, path, headers=self._headers(key), **options)
        if not response.is_success:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        kind = response.headers.get("content-type", "")
        return response.json() if kind.startswith("application/json") else response.text


async def ask(client: httpx.AsyncClient, model: str, row: Row, session: str = "") -> Said:
    """Ask one row; a call that fails comes back without an id."""
    body = {"model": model, "messages": to_prompt(row), "temperature": 0, "max_tokens": TOKENS}
    headers = {"x-session-id": session} if session else {}
    try:
        response = await client.post("/v1/chat/completions", json=body, headers=headers)
        response.raise_for_status()
    except httpx.HTTPError:
        return Said(row, None, "", "", None)
    answer = response.json()
    confidence = response.headers.get("x-confidence")
    return Said(
        row,
        answer["id"],
        answer["model"],
        answer["choices"][0]["message"]["content"] or "",
        float(confidence) if confidence else None,
    )


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Write rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
