"""An alias's options in a call: defaults where the client sent nothing, and the system prompt."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from gateway.registry.snapshot import NO_OPTIONS, AliasOptions
from gateway.serving.call import Call
from gateway.serving.requests import ChatRequest, Message

_LENGTH = ("max_tokens", "max_completion_tokens")
# What else of the client's speaks against a default: a least length must not exceed its most.
_RIVALS = {"max_tokens": _LENGTH, "min_tokens": ("min_tokens", *_LENGTH)}
_SYSTEM = frozenset({"system", "developer"})


def apply(options: AliasOptions, call: Call) -> None:
    """Put an alias's options into a call, and into what is recorded of it as asked.

    A field that the client sent wins, whatever its name on this route. The system prompt is put
    before a conversation without a system message of its own; plain completions have none.
    """
    if options is NO_OPTIONS:
        return
    request = call.request
    added = {
        name: value
        for name, value in options.sampling.items()
        if all(getattr(request, rival, None) is None for rival in _RIVALS.get(name, (name,)))
    }
    for name, value in added.items():
        setattr(request, name, value)
    prompt = _prompt_for(call, options.system_prompt)
    if added or prompt is not None:
        call.asked = _as_asked(call, added, prompt)


def ask_for_logprobs(options: AliasOptions, share: float, call: Call) -> None:
    """Have the worker say how likely its tokens were for a share of the calls only.

    The alias's own share goes before `share`. A client that wants logprobs gets them, and so does
    an evaluation, which calibrates what a confidence means.
    """
    if options.logprobs is not None:
        share = options.logprobs
    if call.wants_tokens or call.key.purpose == "evaluation":
        return
    if random.random() >= share:  # noqa: S311 (a share of traffic, no secret)
        call.leave_unscored()


def _prompt_for(call: Call, prompt: str | None) -> str | None:
    """Give the prompt where this call gets it, which is then in the worker's request."""
    request = call.request
    if prompt is None or not isinstance(request, ChatRequest):
        return None
    if any(message.role in _SYSTEM for message in request.messages):
        return None
    request.messages.insert(0, Message(role="system", content=prompt))
    return prompt


def _as_asked(call: Call, added: dict[str, Any], prompt: str | None) -> bytes:
    """Give the client's body as if the client had sent it all: this is what is trained on."""
    body = {**msgspec.json.decode(call.asked), **added}
    if prompt is not None and "messages" in body:
        body["messages"] = [{"role": "system", "content": prompt}, *body["messages"]]
    elif prompt is not None:
        body["instructions"] = prompt
    return msgspec.json.encode(body)
