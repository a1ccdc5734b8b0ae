"""The stream window of one field: what is held, what may go, and where it stood in the raw text.

Pure: no judge, no clock. `push` and `finish` give units to judge; `settle` takes the verdict of
each, in order, and gives what may go out. Text goes out only after its unit has been judged, and
then only as far as no span of it can still be going on: so no character of a span that a guard
blocks or redacts is ever let out. Offsets are characters of the field's raw text.
"""

from __future__ import annotations

from typing import NamedTuple

from guardrails.catalog import last_word
from guardrails.plan import StagePlan
from guardrails.segment import borders
from guardrails.types import Passage, Piece


class Unit(NamedTuple):
    """A stretch of text to judge. `last` marks the end of the field."""

    start: int
    end: int
    passage: Passage
    sentence_over: bool
    last: bool


class Hit(NamedTuple):
    """A span, in raw offsets, that is withheld or replaced by `[label]`."""

    start: int
    end: int
    label: str
    block: bool


class Window:
    """Holds one field's text until it has been judged."""

    def __init__(self, plan: StagePlan) -> None:
        self._plan = plan
        self._text = ""
        self._base = 0  # raw offset of the first character that is still kept
        self._start = 0  # raw offset of the unit that is being gathered
        self._scan = 0  # raw offset from where to look for its end
        self._settled = 0  # raw offset up to which verdicts have been taken
        self._redactions: list[Hit] = []
        self.released = 0

    @property
    def end(self) -> int:
        """Raw offset of the end of all text taken so far."""
        return self._base + len(self._text)

    def push(self, text: str) -> list[Unit]:
        """Take more text; give the units that are over now."""
        self._text += text
        return self._units()

    def finish(self) -> list[Unit]:
        """End the field; give the unit that is left, marked as the last, or nothing."""
        if self._start == self.end:
            return []
        return [self._unit(self.end, True, last=True)]

    def _units(self) -> list[Unit]:
        base = self._base
        ends, scan = borders(self._text, self._start - base, self._scan - base, self._plan.cap)
        self._scan = scan + base
        return [self._unit(end + base, over) for end, over in ends]

    def _unit(self, end: int, sentence_over: bool, last: bool = False) -> Unit:
        start = self._start
        left = start - self._base
        context = ""
        if left:
            before = self._text[max(0, left - self._plan.reach) : left]
            context = before[-max(self._plan.context, last_word(before)) :]
        passage = Passage(self._text[left : end - self._base], context)
        self._start = end
        return Unit(start, end, passage, sentence_over, last)

    def settle(self, unit: Unit, hits: list[Hit]) -> tuple[list[Piece], bool]:
        """Take the verdict on a unit; give what goes out and whether the answer ends here."""
        limit = unit.end
        if not unit.last:
            held = self._text[: unit.end - self._base]
            limit -= self._plan.hold(held, unit.sentence_over)
        blocks = [hit.start for hit in hits if hit.block]
        limit = min([limit, *blocks])
        for hit in hits:
            if not hit.block:
                self._redact(hit)
        for span in self._redactions:
            if span.start < limit < span.end:
                limit = span.start
        self._settled = unit.end
        pieces = self._release(limit)
        self._forget()
        return pieces, bool(blocks)

    def _redact(self, hit: Hit) -> None:
        """Add a span, made one with those that it overlaps; the longest gives the label."""
        start, end, label, longest = hit.start, hit.end, hit.label, hit.end - hit.start
        apart: list[Hit] = []
        for span in self._redactions:
            if span.end <= start or end <= span.start:
                apart.append(span)
                continue
            if span.end - span.start >= longest:
                label, longest = span.label, span.end - span.start
            start, end = min(start, span.start), max(end, span.end)
        apart.append(Hit(start, end, label, block=False))
        self._redactions = sorted(apart, key=lambda span: span.start)

    def _release(self, limit: int) -> list[Piece]:
        pieces: list[Piece] = []
        for span in [span for span in self._redactions if span.end <= limit]:
            self._redactions.remove(span)
            if span.end <= self.released:
                continue
            self._let_out(span.start, pieces)
            start = max(span.start, self.released)
            pieces.append(Piece(f"[{span.label}]", start, span.end, redacted=True))
            self.released = span.end
        self._let_out(limit, pieces)
        return pieces

    def _let_out(self, to: int, pieces: list[Piece]) -> None:
        if to <= self.released:
            return
        raw = self._text[self.released - self._base : to - self._base]
        pieces.append(Piece(raw, self.released, to))
        self.released = to

    def _forget(self) -> None:
        """Drop text that is out and too far back to be context."""
        useless = min(self.released, self._settled - self._plan.reach) - self._base
        if useless > 0:
            self._text = self._text[useless:]
            self._base += useless


class PassThrough:
    """Stands in for a window where no guard is active: all text goes out at once."""

    def __init__(self) -> None:
        self.released = 0

    def take(self, text: str) -> Piece:
        """Give the text back with its place in the raw text."""
        piece = Piece(text, self.released, self.released + len(text))
        self.released = piece.end
        return piece

    def finish(self) -> list[Unit]:
        """Nothing was held, so nothing is left."""
        return []

    def settle(self, unit: Unit, hits: list[Hit]) -> tuple[list[Piece], bool]:
        """Nothing is ever judged here."""
        raise AssertionError("a pass-through holds nothing to settle")
