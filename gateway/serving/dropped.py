"""Which fields of a worker's answer are dropped because nothing here knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

Fields = dict[str, msgspec.Raw]

_ANSWER = frozenset(
    {
        "id",
        "object",
        "created",
        "model",
        "choices",
        "usage",
        "error",
        "service_tier",
        "system_fingerprint",
    }
)
_CHOICE = frozenset(
    {"index", "message", "delta", "text", "logprobs", "finish_reason", "stop_reason"}
)
_MESSAGE = frozenset({"role", "content", "refusal", "reasoning", "reasoning_content", "tool_calls"})
_NULL = msgspec.Raw(b"null")
_NOTHING = frozenset({b"null", b"[]", b"{}", b'""'})

_answer = msgspec.json.Decoder(Fields)
_choices = msgspec.json.Decoder(list[Fields])


def dropped_fields(data: bytes) -> set[str]:
    """Name what holds a value and is dropped, as `choices.message.audio`.

    `data` is an answer, or a message of a stream, that was understood.
    """
    answer = _answer.decode(data)
    found = set(_unknown("", answer, _ANSWER))
    for choice in _choices.decode(answer["choices"]):
        found.update(_unknown("choices.", choice, _CHOICE))
        for place in ("message", "delta"):
            if bytes(raw := choice.get(place, _NULL)) != b"null":
                found.update(_unknown(f"choices.{place}.", _answer.decode(raw), _MESSAGE))
    return found


def _unknown(place: str, fields: Mapping[str, msgspec.Raw], known: frozenset[str]) -> Iterable[str]:
    return (
        f"{place}{name}"
        for name, raw in fields.items()
        if name not in known and bytes(raw) not in _NOTHING
    )
