"""What of a worker's answer is dropped, and how it is told."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.registry.snapshot import Key
from gateway.serving.call import Call, Draft
from gateway.serving.dropped import dropped_fields
from gateway.serving.metrics import Metrics
from gateway.serving.requests import ChatRequest
from tests.unit.gateway.workers.fake import version

# As vLLM 0.32 writes it.
WHOLE: dict[str, Any] = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "service_tier": None, "system_fingerprint": None, "prompt_logprobs": None,
    "prompt_token_ids": None, "kv_transfer_params": None,
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "choices": [{
        "index": 0, "logprobs": None, "finish_reason": "stop", "stop_reason": 7,
        "token_ids": None,
        "message": {"role": "assistant", "content": "Hi", "refusal": None, "annotations": None,
                    "audio": None, "function_call": None, "tool_calls": [], "reasoning": None},
    }],
}  # fmt: skip


def of(answer: dict[str, Any]) -> set[str]:
    return dropped_fields(msgspec.json.encode(answer))


def test_of_an_answer_as_it_should_be_nothing_is_missed() -> None:
    assert of(WHOLE) == set()
    assert of({"object": "chat.completion.chunk", "choices": []}) == set()


def test_values_that_are_dropped_are_named_by_their_place() -> None:
    [choice] = WHOLE["choices"]
    spoken = {**choice, "message": {**choice["message"], "audio": {"data": "x"}}, "routed": [1]}
    told = of({**WHOLE, "choices": [choice, spoken], "timings": {"n": 1}})
    assert told == {"timings", "choices.routed", "choices.message.audio"}
    chunk = {"choices": [{"index": 0, "delta": {"content": "x", "thoughts": "y"}}]}
    assert of(chunk) == {"choices.delta.thoughts"}
    text = {"index": 0, "text": "x", "message": None, "score": 1}
    assert of({"choices": [text]}) == {"choices.score"}


def test_a_worker_that_makes_names_up_makes_no_page_without_end() -> None:
    call = Call("chat", "", Key(1, "t", "o", "app", None, None), "m", ChatRequest(model="m",
                messages=[]), b"", "req")  # fmt: skip
    draft, metrics = Draft(call, version(), "id", call.standing), Metrics()
    draft.dropped = {f"field_{at:03}" for at in range(250)} | {"x" * 500}
    for _ in range(3):
        metrics.answered(draft)
    page = metrics.page(0, {}, {}, None).decode()
    lines = [line for line in page.splitlines() if line.startswith("adapterloop_dropped_fields_t")]
    assert len(lines) <= 102
    assert max(map(len, lines)) < 140
    assert any(
        line.startswith('adapterloop_dropped_fields_total{field="others"}') for line in lines
    )
