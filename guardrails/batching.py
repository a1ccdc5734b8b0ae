"""Micro-batches: passages of many questions judged together, in one thread.

While the thread works, questions gather; when it is free, it takes up to a batch of passages, some
of each question in turn, so that a long prompt does not keep a short one waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from guardrails.models.base import Model
from guardrails.types import Finding, Passage
from guardrails.wire import Answer, Ask

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    ask: Ask
    answer: Callable[[Answer], None]
    due: float
    findings: list[tuple[Finding, ...]] = field(default_factory=list)

    def take(self, count: int) -> tuple[Passage, ...]:
        at = len(self.findings)
        return self.ask.passages[at : at + count]


class Batcher:
    """Answers questions with models; `run` owns the work and ends when cancelled."""

    def __init__(
        self, models: Mapping[str, Model], executor: Executor, *, batch: int, patience: float
    ) -> None:
        self._models = models
        self._executor = executor
        self._batch = batch
        self._patience = patience
        self._jobs: deque[_Job] = deque()
        self._some = asyncio.Event()

    def put(self, ask: Ask, answer: Callable[[Answer], None]) -> None:
        """Take a question; `answer` is called once, in the event loop."""
        if missing := [name for name in ask.guards if name not in self._models]:
            answer(Answer(ask.id, error=f"the guard {missing[0]} is not loaded"))
            return
        if not ask.passages or not ask.guards:
            answer(Answer(ask.id, tuple(() for _ in ask.passages)))
            return
        due = asyncio.get_running_loop().time() + self._patience
        self._jobs.append(_Job(ask, answer, due))
        self._some.set()

    async def run(self) -> None:
        """Work for as long as the process lives."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            share = self._next_share(loop.time())
            work = [(job.ask.guards, passages) for job, passages in share]
            results = await loop.run_in_executor(self._executor, judge_all, self._models, work)
            for (job, _), result in zip(share, results, strict=True):
                self._settle(job, result)
            if not self._jobs:
                self._some.clear()

    def _next_share(self, now: float) -> list[tuple[_Job, tuple[Passage, ...]]]:
        share: list[tuple[_Job, tuple[Passage, ...]]] = []
        room = self._batch
        # A fair part for each, so that everyone in the queue moves on.
        fair = max(1, room // max(1, len(self._jobs)))
        while self._jobs and room:
            job = self._jobs.popleft()
            if job.due < now:
                job.answer(Answer(job.ask.id, error="too many questions are waiting"))
                continue
            passages = job.take(min(room, max(fair, room if not self._jobs else 0)))
            room -= len(passages)
            share.append((job, passages))
        return share

    def _settle(self, job: _Job, result: list[list[Finding]] | str) -> None:
        if isinstance(result, str):
            job.answer(Answer(job.ask.id, error=result))
            return
        job.findings += [tuple(found) for found in result]
        if len(job.findings) == len(job.ask.passages):
            job.answer(Answer(job.ask.id, tuple(job.findings)))
        else:
            self._jobs.append(job)


def judge_all(
    models: Mapping[str, Model], work: Sequence[tuple[tuple[str, ...], Sequence[Passage]]]
) -> list[list[list[Finding]] | str]:
    """Run the guards of each piece of work; give its findings, or why there are none."""
    try:
        return list(_judge_together(models, work))
    except Exception:
        # One bad passage must not cost the others their verdict.
        logger.exception("a batch failed; its questions are judged one by one")
    results: list[list[list[Finding]] | str] = []
    for each in work:
        try:
            results += _judge_together(models, [each])
        except Exception as error:
            results.append(f"{type(error).__name__} in a guard's model")
    return results


def _judge_together(
    models: Mapping[str, Model], work: Sequence[tuple[tuple[str, ...], Sequence[Passage]]]
) -> list[list[list[Finding]]]:
    results: list[list[list[Finding]]] = [[[] for _ in passages] for _, passages in work]
    for name in {name for guards, _ in work for name in guards}:
        places = [
            (index, at)
            for index, (guards, passages) in enumerate(work)
            if name in guards
            for at in range(len(passages))
        ]
        found = models[name].run([work[index][1][at] for index, at in places])
        for (index, at), findings in zip(places, found, strict=True):
            results[index][at] += findings
    return results
