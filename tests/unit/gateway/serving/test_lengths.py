"""Calls that name no length are bounded too, by what each worker is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from gateway.errors import ContextLengthExceeded, InvalidRequest
from gateway.registry.snapshot import Key, WorkerSpec
from gateway.serving.call import Call, Draft
from gateway.serving.events import Event
from gateway.serving.forms.base import Form
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.serving.forms.responses import ResponsesForm
from gateway.serving.relay import relay
from gateway.serving.router import Target
from gateway.serving.turn import Turn
from gateway.serving.waiting import Standing
from gateway.settings import Limits
from gateway.workers.admin import Ask
from guardrails.policy import Policy
from guardrails.stream import OutputGuard
from tests.unit.gateway.workers.fake import version

KEY = Key(1, "acme", "acme", "app", None, None)
CHAT = {"messages": [{"role": "user", "content": "When?"}]}
TEXT = {"prompt": "When?"}
RESPONSE = {"input": "When?"}


def drafted(form: Form, body: dict[str, Any], cap: int = 4096) -> Draft:
    asked = msgspec.json.encode({"model": "support", **body})
    read = form.read(asked, Limits(max_tokens=cap))
    call = Call(form.route, form.id_prefix, KEY, "support", read.request, asked, "r", cap=cap)
    call.expected_choices = read.expected_choices
    draft = Draft(call, version(), "x-1", Standing(1, "normal"))
    draft.encode("salt")
    return draft


def worker(kind: str = "vllm", context: int | None = None) -> Target:
    return Target(WorkerSpec("w", "http://w", kind), "theirs", Ask("theirs"), 1, context)


def told(draft: Draft, target: Target) -> int | None:
    body = msgspec.json.decode(draft.body_for(target))
    assert body["model"] == "theirs"
    return cast("int | None", body.get("max_completion_tokens", body.get("max_tokens")))


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "tensorrt_llm", "openai"])
@pytest.mark.parametrize(
    ("form", "body", "length"),
    [
        (ChatForm(), CHAT, "max_tokens"),
        (ChatForm(), CHAT, "max_completion_tokens"),
        (ResponsesForm(), RESPONSE, "max_output_tokens"),
    ],
)
def test_a_chat_that_names_no_length_gets_the_cap_and_others_their_own(
    kind: str, form: Form, body: dict[str, Any], length: str
) -> None:
    assert told(drafted(form, body, cap=500), worker(kind)) == 500
    assert told(drafted(form, {**body, length: 7}, cap=500), worker(kind)) == 7


@pytest.mark.parametrize("context", [2048, 500])
def test_a_context_that_is_no_longer_than_the_cap_bounds_by_itself(context: int) -> None:
    assert told(drafted(ChatForm(), CHAT, cap=2048), worker(context=context)) is None
    assert told(drafted(ChatForm(), CHAT, cap=499), worker(context=context)) == 499


@pytest.mark.parametrize(
    ("kind", "cap", "expected"),
    [("llamacpp", 4096, 16), ("openai", 4096, 16), ("vllm", 4096, None), ("vllm", 8, 8)],
)
def test_a_text_completion_that_names_no_length_is_as_short_as_openais(
    kind: str, cap: int, expected: int | None
) -> None:
    """VLLM has that default itself."""
    assert told(drafted(CompletionForm(), TEXT, cap), worker(kind, context=2048)) == expected
    assert told(drafted(CompletionForm(), {**TEXT, "max_tokens": 5}), worker(kind)) == 5


@pytest.mark.parametrize(
    ("form", "body", "cap", "answer"),
    [
        (ChatForm(), CHAT, 4096, 256),
        (ChatForm(), CHAT, 100, 100),
        (ChatForm(), {**CHAT, "max_tokens": 300}, 4096, 300),
        (ChatForm(), {**CHAT, "n": 2}, 100, 200),
        (CompletionForm(), TEXT, 4096, 16),
        (CompletionForm(), TEXT, 8, 8),
    ],
)
def test_no_more_is_reserved_than_the_call_may_use(
    form: Form, body: dict[str, Any], cap: int, answer: int
) -> None:
    call = drafted(form, body, cap).call
    assert call.likely_tokens == len(call.asked) // 4 + answer


def test_a_least_length_above_the_cap_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        drafted(ChatForm(), {**CHAT, "min_tokens": 501}, cap=500)
    assert caught.value.param == "min_tokens"


class Answered:
    """A worker's answer."""

    def __init__(self, status: int, said: str) -> None:
        self.status = status
        self._said = said

    async def read(self) -> bytes:
        if self.status != 200:
            return msgspec.json.encode({"error": {"message": self._said, "code": self.status}})
        choice = {"index": 0, "message": {"content": self._said}, "finish_reason": "stop"}
        return msgspec.json.encode({"object": "chat.completion", "choices": [choice]})

    def events(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


class Strict:
    """A worker that refuses some lengths, in its words."""

    def __init__(self, refusal: str, *, whatever: bool = False) -> None:
        self.lengths: list[int | None] = []
        self._refusal = refusal
        self._whatever = whatever

    @asynccontextmanager
    async def post(self, worker: WorkerSpec, path: str, body: bytes) -> AsyncIterator[Answered]:
        length = msgspec.json.decode(body).get("max_tokens")
        self.lengths.append(length)
        refused = length is not None or self._whatever
        yield Answered(400, self._refusal) if refused else Answered(200, "At noon.")


async def answered(draft: Draft, upstream: Strict) -> list[Event]:
    async def send(events: list[Event]) -> None:
        raise AssertionError("a unary answer is sent as a whole")

    judge: Any = None  # is not asked: the policy has no guards
    turn = Turn(OutputGuard(Policy(), judge, versions={}), wants_tokens=False, unary=True)
    return await relay(draft, worker(), turn, upstream, send)


ROOM = (
    "This model's maximum context length is 2048 tokens. However, you requested 5000 tokens"
    " (904 in the messages, 4096 in the completion)."
)


@pytest.mark.parametrize(
    "refusal",
    [
        ROOM,
        "max_tokens=4096 cannot be greater than max_model_len=2048.",
        "Unsupported parameter: 'max_tokens' is not supported with this model.",
    ],
)
async def test_a_worker_that_refuses_the_bound_is_asked_without_it(refusal: str) -> None:
    upstream = Strict(refusal)
    assert await answered(drafted(ChatForm(), CHAT), upstream)
    assert upstream.lengths == [4096, None]


async def test_a_prompt_that_does_not_fit_is_refused_as_ever() -> None:
    upstream = Strict(ROOM, whatever=True)
    with pytest.raises(ContextLengthExceeded):
        await answered(drafted(ChatForm(), CHAT), upstream)
    assert upstream.lengths == [4096, None]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [({**CHAT, "max_tokens": 9}, ROOM), (CHAT, "The template knows no such role.")],
    ids=["the client's own length", "another fault"],
)
async def test_other_refusals_are_the_clients(body: dict[str, Any], refusal: str) -> None:
    upstream = Strict(refusal)
    with pytest.raises(InvalidRequest):
        await answered(drafted(ChatForm(), body), upstream)
    assert len(upstream.lengths) == 1
