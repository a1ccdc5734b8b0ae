"""What a call shares with others that a worker may still have in its prefix cache."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.registry.snapshot import Version
from gateway.serving.call import Call
from gateway.serving.requests import ChatRequest, CompletionRequest, TextPart

PREFIX = 512
"""Characters of a prompt by which others are alike; what is shorter is soon read again."""


def affinity(call: Call, version: Version) -> str:
    """Give what finds a worker again among those that are equally loaded.

    That is the session, else the beginning of the prompt under this version, whose state no other
    version can use. A short prompt goes anywhere.
    """
    if call.session:
        return call.session
    beginning, length = [], 0
    for text in _texts(call.request):
        beginning.append(text)
        length += len(text)
        if length >= PREFIX:
            return f"{version.model}\0{''.join(beginning)[:PREFIX]}"
    return call.request_id


def _texts(request: ChatRequest | CompletionRequest) -> Iterator[str]:
    if isinstance(request, CompletionRequest):
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        if isinstance(prompt, str):
            yield prompt
        return
    for message in request.messages:
        yield message.role
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (p.text for p in message.content or () if isinstance(p, TextPart))
