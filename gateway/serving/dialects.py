"""What workers other than vLLM are asked: the same request in each kind's own words."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.serving.requests import ChatRequest, CompletionRequest, StreamOptions
from gateway.workers.admin import Ask

_encode = msgspec.json.Encoder().encode
_USAGE = StreamOptions(include_usage=True)
ALWAYS_STREAMS = frozenset({"llamacpp"})
"""Kinds that notice at once that a caller has left while they stream, and otherwise too late."""
# Reviewed extras that are no part of OpenAI's API: a strict server would refuse the call.
_EXTRAS = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos")


def translated(request: ChatRequest | CompletionRequest, kind: str, ask: Ask) -> bytes:
    """Write the request for a worker of this kind; `ask` chooses the model on it."""
    changes: dict[str, Any] = {"model": ask.model}
    more = [ask.more]
    if isinstance(request, CompletionRequest) and request.logprobs is not None:
        changes["logprobs"] = max(1, request.logprobs)  # 0 means none to all but vLLM
    if kind in ALWAYS_STREAMS:
        changes["stream"] = True
    if (request.stream_options or kind in ALWAYS_STREAMS) and kind != "tensorrt_llm":
        changes["stream_options"] = _USAGE
    if kind == "openai":
        changes |= dict.fromkeys(_EXTRAS)
    if kind == "llamacpp":
        changes |= _in_llama_servers_words(request)
        if request.repetition_penalty is not None:
            more.append(_encode({"repeat_penalty": request.repetition_penalty}))
    body = _encode(msgspec.structs.replace(request, **changes))
    return joined([body, *more])


def _in_llama_servers_words(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """Give what it calls otherwise, and ask for one alternative: unasked it gives twenty."""
    changes: dict[str, Any] = {"repetition_penalty": None}
    if isinstance(request, ChatRequest):
        if request.logprobs:
            changes["top_logprobs"] = max(1, request.top_logprobs or 0)
        if request.max_completion_tokens is not None:
            changes |= {"max_completion_tokens": None, "max_tokens": request.max_completion_tokens}
    return changes


def joined(objects: list[bytes]) -> bytes:
    """Make one JSON object of several."""
    return b"{" + b",".join(inner for one in objects if (inner := one[1:-1])) + b"}"
