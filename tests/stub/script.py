"""What the stub worker says, and how: text, cuts, delays and faults."""

from __future__ import annotations

import itertools
import json
import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

EOS = "<|im_end|>"
_WORDS = re.compile(r"\s*[A-Za-z]+|\s*\d|\s+|\S")

Fault = Literal[
    "none",
    "error",  # 500 before anything
    "full",  # 429 before anything
    "bad_json",  # 200, but the body is no JSON (unary) or a chunk is none (streamed)
    "reset",  # the connection closes before the head of the answer
    "hang",  # nothing comes, ever
    "die",  # the connection closes after `fault_after` chunks
    "stall",  # nothing more comes after `fault_after` chunks
    "error_event",  # an error object in the stream after `fault_after` chunks, as vLLM does
    "unknown_chunk",  # a chunk of another kind after `fault_after` chunks, holding the text
    "unknown_delta",  # the text in a delta field that nobody knows, after `fault_after` chunks
    "no_done",  # the stream ends well but for the missing [DONE]
]
LoadFault = Literal["none", "no_effect", "mismatch", "error", "hang"]


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token: `text` is what it adds to the answer, `name` how logprobs show it."""

    text: str
    name: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a script sees it. `model` is the worker-side name."""

    path: str
    model: str
    body: dict[str, Any]

    @property
    def last(self) -> str:
        """The text of the last message, or the prompt."""
        if (messages := self.body.get("messages")) is None:
            prompt = self.body.get("prompt", "")
            return prompt if isinstance(prompt, str) else str(prompt)
        content = messages[-1].get("content") or "" if messages else ""
        if isinstance(content, list):
            return "".join(part.get("text", "") for part in content)
        return str(content)


def introduce(asked: Asked, choice: int) -> str:
    """The default answer: names the model that answers, so that a mix-up is seen."""
    tail = "" if choice == 0 else f" This is choice {choice}."
    return f"I am {asked.model}. The weather is fine and the train is on time.{tail}"


Cutting = Literal["tokens", "chars", "random", "whole"] | Sequence[int]


@dataclass(slots=True)
class Script:
    """How the worker answers; change it at any time, calls read it as they begin.

    `cuts` are tokens (word-like), single characters, pieces of 1 to 7 characters drawn with
    `seed`, the whole text, or positions in the text. Every piece is one token and one chunk.
    `first_delay` and `delay` are seconds before the first chunk and between chunks. `tool_calls`
    are (name, arguments) pairs. `sureness` is the log-probability of every token, made up where it
    is None. `pick` gives another script for a call, or None for this one.
    """

    text: str | Callable[[Asked, int], str] = introduce
    reasoning: str = ""
    tool_calls: Sequence[tuple[str, str]] = ()
    cuts: Cutting = "tokens"
    seed: int = 0
    first_delay: float = 0.0
    delay: float = 0.0
    fault: Fault = "none"
    fault_after: int = 3
    eos: bool = True
    sureness: float | None = None
    extra_fields: dict[str, Any] = field(default_factory=dict)
    extra_choice_fields: dict[str, Any] = field(default_factory=dict)
    pick: Callable[[Asked], Script | None] | None = None

    def answer(self, asked: Asked, choice: int) -> str:
        """The text of one choice; a JSON schema is met unless the text is set."""
        if callable(self.text):
            if self.text is introduce and (made := _meet_schema(asked.body)) is not None:
                return made
            return self.text(asked, choice)
        return self.text

    def tokens(self, text: str) -> list[Token]:
        """Cut a text into tokens; made-up logprobs are repeatable."""
        return [
            Token(piece, piece, _made_up(piece) if self.sureness is None else self.sureness)
            for piece in cut(text, self.cuts, self.seed)
        ]


def _made_up(piece: str) -> float:
    return -(zlib.crc32(piece.encode()) % 997) / 500 - 0.001


def cut(text: str, cuts: Cutting, seed: int = 0) -> list[str]:
    """Cut a text; the pieces joined are the text."""
    if not isinstance(cuts, str):
        marks = [0, *sorted(mark for mark in cuts if 0 < mark < len(text)), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(marks) if b > a]
    match cuts:
        case "chars":
            return list(text)
        case "whole":
            return [text] if text else []
        case "random":
            draw, pieces, at = random.Random(seed), [], 0
            while at < len(text):
                step = draw.randint(1, 7)
                pieces.append(text[at : at + step])
                at += step
            return pieces
        case _:
            return _WORDS.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens the stub's tokenizer sees in a text."""
    return len(_WORDS.findall(text))


def _meet_schema(body: dict[str, Any]) -> str | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return '{"answer": "yes"}'
    if wanted.get("type") != "json_schema":
        return None
    return json.dumps(_instance(wanted["json_schema"].get("schema", {})))


def _instance(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _instance(sub) for name, sub in schema.get("properties", {}).items()}
        case "array":
            return [_instance(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
        case "integer":
            return int(schema.get("minimum", 1))
        case "number":
            return float(schema.get("minimum", 1.5))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "fine"
