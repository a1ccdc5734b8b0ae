"""A request of any route as a list of messages, and the rest of what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]

_NOT_KEPT = frozenset(
    # Who asked is kept as a pseudonym, and the version that answered stands in a column.
    {"model", "user", "safety_identifier", "prompt_cache_key", "messages", "prompt", "input"}
)


def conversation_of(request: Any) -> tuple[list[Message], dict[str, Any]]:
    """Give the messages of a chat, completion or response request, and its other parameters.

    A prompt is one user message for each text; a response's instructions are a system message.
    """
    if not isinstance(request, Mapping):
        return [], {}
    parameters = {key: value for key, value in request.items() if key not in _NOT_KEPT}
    if isinstance(request.get("messages"), list):
        return list(request["messages"]), parameters
    if "prompt" in request:
        prompt = request["prompt"]
        prompts = prompt if isinstance(prompt, list) else [prompt]
        return [{"role": "user", "content": text} for text in prompts], parameters
    messages: list[Message] = []
    if isinstance(instructions := parameters.pop("instructions", None), str):
        messages.append({"role": "system", "content": instructions})
    given = request.get("input")
    items = given if isinstance(given, list) else [given]
    return messages + [_item(item) for item in items if item is not None], parameters


def _item(item: Any) -> Message:
    if not isinstance(item, Mapping):
        return {"role": "user", "content": item}
    content = item.get("content")
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return {**item, "content": "".join(part["text"] for part in content)}
    return dict(item)


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)
