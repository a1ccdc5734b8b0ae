r"""Tool-call arguments: buffered to their end, let out whole or not at all.

They are JSON that a program will read, so a placeholder in them would do harm: what a policy
redacts elsewhere is flagged here. JSON escapes can hide a text ("\u0069diot"), so where there are
any, the decoded strings are judged beside the raw text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from guardrails.plan import StagePlan
from guardrails.types import Piece
from guardrails.window import Hit, Unit, Window


class ArgumentsBuffer:
    """Like a `Window`, for arguments: nothing goes out before all of it has been judged."""

    def __init__(self, plan: StagePlan) -> None:
        self._plan = plan
        self._chunks: list[str] = []
        self._last: Unit | None = None
        self._blocked = False
        self.released = 0

    def push(self, text: str) -> list[Unit]:
        """Take more text; it stays here."""
        self._chunks.append(text)
        return []

    def finish(self) -> list[Unit]:
        """End the arguments; give the units of each way to read them."""
        units: list[Unit] = []
        for reading in _readings("".join(self._chunks)):
            window = Window(self._plan)
            units += window.push(reading)
            units += window.finish()
        self._last = units[-1] if units else None
        return units

    def settle(self, unit: Unit, hits: list[Hit]) -> tuple[list[Piece], bool]:
        """Take the verdict on a unit; after the last one give everything, if nothing blocks."""
        if any(hit.block for hit in hits):
            self._blocked = True
        if self._blocked or unit is not self._last:
            return [], self._blocked
        text = "".join(self._chunks)
        self._chunks.clear()
        self._last = None
        self.released = len(text)
        return [Piece(text, 0, len(text))], False


def _readings(raw: str) -> list[str]:
    if "\\" not in raw:
        return [raw]
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return [raw]
    return [raw, "\n\n".join(_strings(value))]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
