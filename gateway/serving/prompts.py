"""Which texts of a request the input guards judge, and how a redaction gets back into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.errors import InvalidRequest
from gateway.serving.requests import ChatRequest, CompletionRequest, TextPart

_JUDGED_ROLES = frozenset({"user", "tool"})


@dataclass(slots=True)
class Slot:
    """One judged text, and how to put another in its place."""

    text: str
    replace: Callable[[str], None]


def slots_of(request: ChatRequest | CompletionRequest) -> list[Slot]:
    """Give what came from outside: messages of users and tools, or prompts.

    Raises `InvalidRequest` for prompts of token ids, which no guard can read.
    """
    if isinstance(request, ChatRequest):
        return _of_messages(request)
    if isinstance(request.prompt, str):
        return [Slot(request.prompt, partial(setattr, request, "prompt"))]
    prompts = request.prompt
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest(
            "Prompts must be text here: token ids cannot be judged by the input guards.",
            param="prompt",
        )
    return [_item_slot(prompts, index) for index in range(len(prompts))]


def _item_slot(items: Sequence[object], index: int) -> Slot:
    def replace(text: str) -> None:
        items[index] = text  # type: ignore[index]

    return Slot(str(items[index]), replace)


def _of_messages(request: ChatRequest) -> list[Slot]:
    slots = []
    for message in request.messages:
        if message.role not in _JUDGED_ROLES or message.content is None:
            continue
        if isinstance(message.content, str):
            slots.append(Slot(message.content, partial(setattr, message, "content")))
            continue
        slots += [
            Slot(part.text, partial(setattr, part, "text"))
            for part in message.content
            if isinstance(part, TextPart)
        ]
    return slots
