"""Values that cross the border of the guardrails package."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Literal, Protocol

import msgspec

Stage = Literal["input", "output"]
Action = Literal["block", "redact", "flag", "annotate"]
Field = Literal["content", "reasoning", "refusal", "arguments"]


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """One guard's hit on a text.

    `start` and `end` are character offsets into the judged text, `score` lies in 0..1.
    A sentence-level guard spans the whole text that it judged.
    """

    guard: str
    label: str
    start: int
    end: int
    score: float


class Passage(msgspec.Struct, frozen=True, array_like=True):
    """A text to judge: findings are wanted for `text`; `context` is what came right before it."""

    text: str
    context: str = ""


class Judge(Protocol):
    """Runs the named guards over passages; the real one talks to the guard process."""

    def judge(
        self, guards: Sequence[str], passages: Sequence[Passage]
    ) -> Awaitable[Sequence[Sequence[Finding]]]:
        """Give the findings of each passage, in the order of the passages.

        Offsets are relative to `context + text` minus `len(context)`: a finding that begins in the
        context has a negative start. Raises `GuardUnavailable` when no answer can be had in time.
        """
        ...


class Piece(msgspec.Struct, frozen=True):
    """Text that may go to the client, and where it stood in the worker's own text.

    `start` and `end` are character offsets into the field's raw text; `redacted` pieces hold a
    placeholder such as `[EMAIL_ADDRESS]` in place of the raw characters.
    """

    text: str
    start: int
    end: int
    redacted: bool = False


class Release(msgspec.Struct, frozen=True):
    """What a push to the window lets out. After `blocked` nothing more of the choice is sent."""

    pieces: tuple[Piece, ...] = ()
    blocked: bool = False


class AuditEntry(msgspec.Struct, frozen=True):
    """One decision of one guard, for the record; holds no text."""

    stage: Stage
    guard: str
    version: str
    label: str
    score: float
    threshold: float
    action: Action
    choice: int = 0
    field: Field = "content"
    start: int = 0
    end: int = 0
