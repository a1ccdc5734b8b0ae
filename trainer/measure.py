"""Asks a served version the golden queries, through the gateway, as an app would."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence

import httpx

from trainer.errors import EvaluationFailed
from trainer.evaluation import Answer, Evaluation
from trainer.rows import Row, to_prompt
from trainer.settings import EvaluationSettings

_PASSING = frozenset({429, 500, 502, 503, 504})
_PAUSE_S = 2.0

Said = tuple[str, float | None]
"""The text of an answer, and the mean log-probability of its tokens where the gateway tells it."""
Told = Callable[[int, int], None]
"""Told after each answer: answers there, queries in all."""


def cache_key(weights: str, golden_digest: str, settings: EvaluationSettings) -> str:
    """Name an evaluation by all that it follows from: weights, golden set, decoding."""
    text = json.dumps([weights, golden_digest, settings.max_tokens, "greedy", 2])
    return hashlib.sha256(text.encode()).hexdigest()


def measure(
    url: str,
    key: str,
    model: str,
    golden: Sequence[Row],
    golden_digest: str,
    settings: EvaluationSettings,
    told: Told = lambda done, total: None,
) -> Evaluation:
    """Ask every golden query of `model`, greedily, and keep what was said.

    `key` should be one for evaluation. What fails in passing is asked again. Raises
    EvaluationFailed.
    """
    said = asyncio.run(_ask_all(url, key, model, golden, settings, told))
    answers = (
        Answer(row.id, row.slice, row.input, row.output, text, confidence)
        for row, (text, confidence) in zip(golden, said, strict=True)
    )
    return Evaluation(model, golden_digest, tuple(answers))


async def _ask_all(
    url: str,
    key: str,
    model: str,
    golden: Sequence[Row],
    settings: EvaluationSettings,
    told: Told,
) -> list[Said]:
    slots, done = asyncio.Semaphore(settings.at_once), 0
    limits = httpx.Limits(max_connections=settings.at_once)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url.rstrip("/"), headers=headers, timeout=300, limits=limits, trust_env=False
    ) as client:

        async def one(row: Row) -> Said:
            nonlocal done
            async with slots:
                said = await _ask(client, model, row, settings)
            done += 1
            told(done, len(golden))
            return said

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(row)) for row in golden]
        except* EvaluationFailed as several:
            raise several.exceptions[0] from None
    return [task.result() for task in tasks]


async def _ask(
    client: httpx.AsyncClient, model: str, row: Row, settings: EvaluationSettings
) -> Said:
    body = {
        "model": model,
        "messages": to_prompt(row),
        "temperature": 0,
        "max_tokens": settings.max_tokens,
    }
    deadline = time.monotonic() + settings.patience
    while True:
        try:
            response = await client.post("/v1/chat/completions", json=body)
        except httpx.TransportError as error:
            trouble = f"{type(error).__name__}: {error}"
        else:
            if response.is_success:
                return _said(response)
            trouble = f"{response.status_code}: {response.text[:300]}"
            if response.status_code not in _PASSING:
                raise EvaluationFailed(f"{model}, golden item {row.id}: {trouble}")
        if time.monotonic() >= deadline:
            raise EvaluationFailed(f"{model}, golden item {row.id}: {trouble}")
        await asyncio.sleep(_PAUSE_S)


def _said(response: httpx.Response) -> Said:
    text = str(response.json()["choices"][0]["message"]["content"] or "")
    confidence = response.headers.get("x-confidence")
    return text, float(confidence) if confidence is not None else None
