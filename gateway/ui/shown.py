"""What the pages show of an item: recorded values of any shape become plain text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feedback.review import Item

_REASONS = {
    "flagged": "Someone said that something is wrong with it.",
    "guarded": "A guard stepped in.",
    "doubtful": "The model was less sure of it than it usually is.",
    "audit": "Drawn at random, to see what nobody flags.",
}
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as plain text; `kind` is a role that the style sheet knows, or other."""

    role: str
    kind: str
    text: str


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Give the messages of any route as text; what has no text is shown as it was recorded."""
    shown = []
    for message in messages:
        role = str(message.get("role") or message.get("type") or "message")
        shown.append(Message(role, role if role in _ROLES else "other", _text(message)))
    return shown


def moment(at: float) -> str:
    """Give a time of seconds since the epoch."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def question(item: Item) -> str:
    """Give the last thing that was asked, for a list."""
    messages = conversation(item.answer["messages"]) if item.answer is not None else []
    asked = [message.text for message in messages if message.kind == "user"]
    return asked[-1] if asked else ""


def reply(item: Item) -> str:
    """Give the answer in short, for a list."""
    return item.text or "\n".join(tool_calls(item))


def tool_calls(item: Item) -> list[str]:
    """Give the tools that the answer called, with their arguments."""
    return [_call(call) for call in _first(item).get("tool_calls") or ()]


def reasoning(item: Item) -> str:
    """Give the model's own thoughts, where it told them."""
    return str(_first(item).get("reasoning") or "")


def why(item: Item) -> list[str]:
    """Say why a reviewer should see this answer."""
    audit = item.answer["audit"] if item.answer is not None else ()
    guards = dict.fromkeys(
        _guard(entry) for entry in audit if entry.get("action") in ("block", "flag")
    )
    return [_REASONS.get(item.row["reason"], ""), *guards]


def facts(item: Item) -> list[str]:
    """Tell how sure the model was, and when it answered."""
    answer = item.answer
    if answer is None:
        return []
    told = []
    if answer["confidence_mean"] is not None:
        least = _percent(answer["confidence_min"])
        told.append(f"confidence {_percent(answer['confidence_mean'])}, least sure token {least}")
    told.append(f"answered {moment(answer['started'])}")
    if len(answer["choices"]) > 1:
        told.append(f"the first of {len(answer['choices'])} choices")
    if answer["outcome"] != "ok":
        told.append(f"outcome: {answer['outcome']}")
    return told


def _first(item: Item) -> Mapping[str, Any]:
    choices = item.answer["choices"] if item.answer is not None else []
    found: Mapping[str, Any] = min(choices, key=lambda choice: choice["index"], default={})
    return found


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    calls = message.get("tool_calls")
    told = [content] if isinstance(content, str) and content else []
    told += [_call(call) for call in calls] if isinstance(calls, list) else []
    return "\n".join(told) if told or isinstance(content, str) else _json(message)


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    return _json(part)


def _call(call: Any) -> str:
    if not isinstance(call, Mapping):
        return _json(call)
    function = call.get("function")
    named = function if isinstance(function, Mapping) else call
    return f"{named.get('name', '?')}({named.get('arguments', '')})"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _guard(entry: Mapping[str, Any]) -> str:
    did = "blocked" if entry["action"] == "block" else "flagged"
    where = "the question" if entry.get("stage") == "input" else "the answer"
    score = f", score {entry['score']:.2f}" if entry.get("score") is not None else ""
    return f"Guard {entry.get('guard', '?')} {did} {where} ({entry.get('label', '?')}{score})."


def _percent(logprob: float | None) -> str:
    return "?" if logprob is None else f"{math.exp(min(0.0, logprob)):.0%}"
