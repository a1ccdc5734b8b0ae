"""What the serving process must know of each guard, without importing any model.

A *sentence-level* guard gives one verdict for a whole unit of text. A *span-level* guard finds
spans, which may begin in one unit and end in the next; `hold` says how much of a judged text has to
stay back for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# Any character that a phone, card or account number can go on with after a space.
_NUMBER_START = re.compile(r"[\d+(\uff0b\uff08]")

MAX_WORD = 320
"""Longest span without white space that a span-level guard may find, in characters."""


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """A guard as the window sees it.

    `max_span` is the length in characters of the longest span with white space inside that the
    guard can find (0 for sentence-level guards). `hold(text)` gives for a text that ends with a
    sentence how many of its last characters may belong to a span that is not over yet.
    """

    name: str
    unit: Literal["sentence", "span"]
    max_span: int = 0
    hold: Callable[[str], int] | None = None
    version: str = "1"

    def tail(self, text: str, sentence_over: bool) -> int:
        """Characters at the end of `text` that must wait for what follows."""
        if self.unit == "sentence":
            return 0
        if sentence_over and self.hold is not None:
            return min(self.hold(text[-self.max_span :]), self.max_span)
        return max(self.max_span, last_word(text))


def last_word(text: str) -> int:
    """Length of the run without white space that ends the text, `MAX_WORD` at most."""
    if not text or text[-1].isspace():
        return 0
    return len(text[-MAX_WORD:].rsplit(None, 1)[-1])


def number_run(text: str) -> int:
    """Length of the end of `text` that a number with separators could go on from.

    Over a sentence's end only numbers go on ("+1 555. 0100"): addresses hold no white space, and
    account numbers hold no full stop. So the part from the first digit, plus sign or bracket after
    the last letter is all that could belong to what comes next.
    """
    start = len(text)
    # From the end back: most sentences end with a letter, a full stop and a space.
    while start and not (text[start - 1].isascii() and text[start - 1].isalpha()):
        start -= 1
    found = _NUMBER_START.search(text, start)
    return 0 if found is None else len(text) - found.start()


PATTERN_LABELS = frozenset({"EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN"})
"""Kinds of personal data that are found by patterns and checksums alone."""

NAME_LABELS = frozenset({"PERSON", "LOCATION"})
"""Kinds of personal data that need a language model."""

CATALOG: Mapping[str, GuardSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            GuardSpec("toxicity", "sentence"),
            GuardSpec("personal_data", "span", max_span=96, hold=number_run),
            GuardSpec("names", "span", max_span=96),
            GuardSpec("phrases", "span"),
        )
    }
)
"""Every guard that a policy may name. `phrases` runs in process: its list is in the policy."""
