"""Denied phrases: pure Python, so they are matched in the serving process."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guardrails.types import Finding, Passage

_GAP = 4
"""White space between two words of a phrase: any, up to this many characters."""


class PhraseMatcher:
    """Finds any of the phrases as whole words, whatever their case."""

    def __init__(self, phrases: Sequence[str]) -> None:
        """`phrases` holds at least one that is not blank."""
        words = [phrase.split() for phrase in phrases]
        self.max_span = max(sum(map(len, each)) + _GAP * (len(each) - 1) for each in words)
        gap = rf"\s{{1,{_GAP}}}"
        bodies = sorted((gap.join(map(re.escape, each)) for each in words), key=len, reverse=True)
        firsts = sorted({re.escape(each[0]) for each in words}, key=len, reverse=True)
        self._pattern = re.compile(_whole(bodies), re.IGNORECASE)
        self._first = re.compile(rf"(?:{'|'.join(firsts)})", re.IGNORECASE)

    def find(self, passage: Passage) -> list[Finding]:
        """Give the phrases in the passage, offsets relative to its text."""
        shift = len(passage.context)
        return [
            Finding("phrases", "PHRASE", match.start() - shift, match.end() - shift, 1.0)
            for match in self._pattern.finditer(passage.context + passage.text)
        ]

    def hold(self, text: str) -> int:
        """Characters at the end of a text over, from where a phrase may have begun."""
        found = self._first.search(text)
        return 0 if found is None else len(text) - found.start()


def _whole(bodies: Sequence[str]) -> str:
    # Look-arounds instead of \b: a phrase may begin or end with a character that is no letter.
    return rf"(?<!\w)(?:{'|'.join(bodies)})(?!\w)"
