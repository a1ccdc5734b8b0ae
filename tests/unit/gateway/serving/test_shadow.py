"""Copies of calls: what becomes of them where workers are away, and at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from feedback.opening import open_call
from feedback.sealing import Seal
from feedback.types import Answer, ShadowPair
from gateway.registry.snapshot import Key, Version, WorkerSpec
from gateway.serving.call import Call, Draft
from gateway.serving.recorder import Recorder
from gateway.serving.requests import ChatRequest, Message
from gateway.serving.shadow import Shadows
from gateway.serving.upstream import UpstreamError, UpstreamTimeout
from gateway.serving.waiting import Standing
from guardrails.policy import Policy
from tests.unit.gateway.workers.fake import version

from .test_router_full import BASE, Fleet

KEY = Key(1, "default", "ann", "app", None, None)


class Answered:
    """A worker's answer."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self._text = text

    async def read(self) -> bytes:
        choice = {"index": 0, "message": {"content": self._text}, "finish_reason": "stop"}
        return msgspec.json.encode({"object": "chat.completion", "choices": [choice]})

    def events(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


class Upstream:
    """Does what the test says at each call."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.workers: list[str] = []

    @asynccontextmanager
    async def post(self, worker: WorkerSpec, path: str, body: bytes) -> AsyncIterator[Answered]:
        self.workers.append(worker.name)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer == "hang":
            await asyncio.Event().wait()
        yield answer if isinstance(answer, Answered) else Answered(200, answer)


class Pairs:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.pairs: list[ShadowPair] = []

    def put_pair(self, pair: ShadowPair) -> None:
        self.pairs.append(pair)


class Judge:
    """Is not asked: the policy has no guards."""

    versions: dict[str, str] = {}  # noqa: RUF012


def ended(outcome: str = "ok") -> Draft:
    """A call that is over."""
    request = ChatRequest(model="support", messages=[Message(role="user", content="Hello")])
    call = Call("/v1/chat/completions", "chatcmpl-", KEY, "support", request, b"{}", "r")
    draft = Draft(call, version(7), "chatcmpl-1", Standing(1, "normal"), outcome=outcome)
    draft.encode("salt")
    return draft


@asynccontextmanager
async def copying(
    upstream: Upstream, recorder: Pairs, most: int = 4, workers: int = 2
) -> AsyncIterator[Callable[[Draft], Shadows]]:
    """Gives what copies a call to the base model."""
    async with asyncio.TaskGroup() as group:
        fleet = Fleet(group, workers)
        await fleet.probe()
        parts: Any = (fleet.router, upstream, Judge(), recorder)
        shadows = Shadows(*parts, most)
        running = group.create_task(shadows.run())
        await asyncio.sleep(0)

        def follow(draft: Draft) -> Shadows:
            candidate: Version = BASE
            shadows.follow(draft, candidate, Policy())
            return shadows

        yield follow
        running.cancel()
    assert fleet.router.busy() == []
    follow(ended())  # too late, which costs nobody anything


async def over(shadows: Shadows) -> None:
    async with asyncio.timeout(5):
        while shadows._running:  # noqa: ASYNC110 (tasks of the code under test change it)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answers", "fate", "failed"),
    [
        (["Hi"], "paired", False),
        ([Answered(500, ""), "Hi"], "paired", False),
        ([Answered(500, ""), Answered(503, "")], "paired", True),
        ([UpstreamTimeout("late"), UpstreamTimeout("late")], "paired", True),
        ([Answered(400, "")], "paired", True),
        ([UpstreamError("refused"), "Hi"], "paired", False),
        ([UpstreamError("refused"), UpstreamError("refused")], "away", None),
        ([Answered(404, ""), Answered(404, "")], "away", None),
        ([Answered(429, "")], "busy", None),
    ],
)
async def test_only_what_is_its_own_counts_against_the_candidate(
    answers: list[Any], fate: str, failed: bool | None
) -> None:
    upstream, recorder = Upstream(*answers), Pairs()
    async with copying(upstream, recorder) as follow:
        shadows = follow(ended())
        await over(shadows)
        assert {name: n for name, n in shadows.fates.items() if n} == {fate: 1}
    assert not upstream.answers
    assert len(set(upstream.workers)) == len(upstream.workers)  # another worker each time
    assert [pair.candidate.failed for pair in recorder.pairs] == (
        [] if failed is None else [failed]
    )


async def test_what_the_stable_version_failed_is_paired_and_what_says_nothing_is_not() -> None:
    recorder = Pairs()
    async with copying(Upstream("Hi"), recorder) as follow:
        for outcome in ("client_gone", "no_worker", "content_policy_violation", "overloaded"):
            follow(ended(outcome))
        await over(follow(ended("worker_failed")))
    (pair,) = recorder.pairs
    assert (pair.stable.failed, pair.candidate.failed, pair.same_text) == (True, False, None)


async def test_more_than_the_limit_are_dropped_and_the_rest_give_way() -> None:
    recorder = Pairs()
    async with copying(Upstream(*["hang"] * 3), recorder, most=2) as follow:
        for _ in range(3):
            shadows = follow(ended())
        await asyncio.sleep(0)
        shadows.give_way()
        await over(shadows)
        assert (shadows.fates["limit"], shadows.fates["gave_way"]) == (1, 2)
        follow(ended())  # which is under way at the end
        await asyncio.sleep(0)
    assert recorder.pairs == []


@pytest.mark.parametrize(("kept", "session"), [("all", "ann"), ("none", None)])
def test_where_no_answers_are_kept_a_pair_names_no_session(kept: str, session: str | None) -> None:
    put: list[tuple[str, bytes]] = []
    outbox: Any = type("Outbox", (), {"put": lambda _, *record: put.append(record)})()
    seal = Seal(bytes(32))
    fine = Answer(failed=False, blocked=False, seconds=1.0)
    pair = ShadowPair(
        id="chatcmpl-1",
        tenant="default",
        alias="support",
        stable_id=1,
        candidate_id=2,
        started=1.0,
        stable=fine,
        candidate=fine,
        session="ann",
    )
    Recorder(outbox, seal, ["support"] if kept == "none" else ()).put_pair(pair)
    ((_, sealed),) = put
    assert open_call(seal, sealed) == msgspec.structs.replace(pair, session=session)
