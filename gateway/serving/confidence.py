"""How sure the model was, from the logprobs of the tokens that it sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from feedback.types import Confidence

_PUNCTUATION = frozenset("{}[]:,\"' \t\r\n")


class Sampled(Protocol):
    """A sampled token with the natural logarithm of its probability."""

    token: str
    logprob: float


class _KeyFinder:
    """Follows JSON text and tells which characters belong to an object's keys."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._in_string = False
        self._escaped = False
        self._key = False
        self._expect_key = False

    def scaffolding(self, text: str) -> bool:
        """Whether `text`, the next piece, is nothing but punctuation and parts of keys."""
        verdict = True
        for char in text:
            if not self._step(char):
                verdict = False
        return verdict

    def _step(self, char: str) -> bool:
        if self._in_string:
            return self._inside(char)
        if char == '"':
            self._in_string = True
            self._key = self._expect_key
        elif char in "{[":
            self._stack.append(char)
            self._expect_key = char == "{"
        elif char in "}]":
            if self._stack:
                self._stack.pop()
            self._expect_key = False
        elif char == ",":
            self._expect_key = bool(self._stack) and self._stack[-1] == "{"
        elif char == ":":
            self._expect_key = False
        return char in _PUNCTUATION

    def _inside(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            return True
        return self._key


def score(tokens: Sequence[Sampled]) -> Confidence | None:
    """Score one choice from its tokens; None where there are none.

    In an answer that begins as JSON, tokens that only carry punctuation or keys are left out,
    since a format that the model has learnt says nothing of the values. If nothing else is left,
    all tokens count.
    """
    if not tokens:
        return None
    values = [token.logprob for token in tokens]
    if tokens[0].token.lstrip()[:1] in ("{", "["):
        finder = _KeyFinder()
        kept = [token.logprob for token in tokens if not finder.scaffolding(token.token)]
        values = kept or values
    ordered = sorted(values)
    total = sum(values)
    return Confidence(
        sequence=total,
        mean=total / len(values),
        minimum=ordered[0],
        p10=ordered[int(0.1 * (len(ordered) - 1))],
        length=len(values),
    )
