"""One request in the words of each kind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.serving.answers import (
    BareToken,
    Parsed,
    Token,
    gathered,
    parse_chat,
    parse_completion,
)
from gateway.serving.dialects import translated
from gateway.serving.requests import ChatRequest, CompletionRequest, Message, StreamOptions
from gateway.workers.admin import Ask


def chat(**more: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=[Message(role="user", content="x")], **more)


def sent(request: ChatRequest | CompletionRequest, kind: str, **ask: Any) -> dict[str, Any]:
    body = translated(request, kind, Ask("theirs", msgspec.json.encode(ask)))
    return dict(msgspec.json.decode(body))


STREAMED = StreamOptions(include_usage=True, continuous_usage_stats=True)


def test_a_strict_server_gets_nothing_that_openai_lacks() -> None:
    request = chat(top_k=5, min_p=0.1, repetition_penalty=1.2, min_tokens=3, ignore_eos=True)
    request.stream, request.stream_options = True, STREAMED
    body = sent(request, "openai")
    assert set(body) == {"model", "messages", "stream", "stream_options"}
    assert body["model"] == "theirs"
    assert body["stream_options"] == {"include_usage": True}
    assert request.top_k == 5  # another worker may be tried after this one


def test_llama_server_gets_scales_and_its_own_names() -> None:
    scales = [{"id": 0, "scale": 1.0}]
    request = chat(logprobs=True, max_completion_tokens=9, repetition_penalty=1.2, top_k=5)
    body = sent(request, "llamacpp", lora=scales)
    assert body["lora"] == scales
    assert (body["max_tokens"], body["repeat_penalty"], body["top_k"]) == (9, 1.2, 5)
    assert not {"max_completion_tokens", "repetition_penalty"} & set(body)
    assert body["top_logprobs"] == 1
    assert sent(chat(logprobs=True, top_logprobs=4), "llamacpp")["top_logprobs"] == 4


def test_llama_server_is_asked_for_a_stream_and_so_notices_who_leaves() -> None:
    """Its look whether a caller is still there is put off by every other call's result."""
    body = sent(chat(), "llamacpp")
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert "stream" not in sent(chat(), "openai")


def test_a_streams_events_make_a_unary_answer() -> None:
    def delta(finish: str | None = None, **said: Any) -> Parsed:
        logprobs = {"content": [{"token": "t", "logprob": -0.5, "bytes": None}]}
        choice = {"index": 0, "delta": said, "finish_reason": finish, "logprobs": logprobs}
        return parse_chat(
            msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]}), False
        )

    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": "}"}}
    end = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    usage = parse_chat(
        msgspec.json.encode({"object": "chat.completion.chunk", "choices": [], "usage": end}), False
    )
    whole = gathered(
        [delta(content="One"), delta(content=" two"), delta(tool_calls=[call]),
         delta(finish="tool_calls", tool_calls=[rest]), usage]
    )  # fmt: skip
    [part] = whole.parts
    assert part.texts == [("content", "One two")]
    assert (len(part.tokens), part.finish) == (4, "tool_calls")
    assert [d.function.arguments for d in part.tools or ()] == ["{", "}"]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 4)


def test_tensorrt_gets_the_adapter_with_the_request() -> None:
    body = sent(chat(top_k=5), "tensorrt_llm", lora_request={"lora_path": "/a"})
    assert (body["lora_request"], body["top_k"]) == ({"lora_path": "/a"}, 5)


@pytest.mark.parametrize("kind", ["openai", "llamacpp", "tensorrt_llm"])
def test_no_alternatives_still_means_logprobs(kind: str) -> None:
    request = CompletionRequest(model="m", prompt="x", logprobs=0)
    assert sent(request, kind)["logprobs"] == 1
    assert sent(CompletionRequest(model="m", prompt="x", logprobs=3), kind)["logprobs"] == 3


@pytest.mark.parametrize("kind", ["openai", "llamacpp", "tensorrt_llm"])
def test_logprobs_that_are_not_wanted_are_not_asked_for(kind: str) -> None:
    asked = sent(chat(), kind), sent(CompletionRequest(model="m", prompt="x"), kind)
    assert not any({"logprobs", "top_logprobs"} & set(body) for body in asked)


def test_a_text_completion_may_have_logprobs_as_a_chat_has() -> None:
    entry = {"id": 7, "token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    choice = {"index": 0, "text": "Hi", "logprobs": {"content": [entry]}, "finish_reason": "stop"}
    answer = {"object": "text_completion", "choices": [choice], "timings": {"x": 1}}
    [part] = parse_completion(msgspec.json.encode(answer), bare=False).parts
    assert [(t.token, t.logprob) for t in part.tokens] == [("Hi", -0.5)]
    assert isinstance(part.tokens[0], Token | BareToken)
