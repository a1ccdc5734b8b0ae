"""Personal data by patterns and checksums: Presidio's recognisers and a few patterns of our own.

No language model runs here, so words around a number are looked up in the text itself. Presidio's
own e-mail recogniser is left out: it asks the network for a list of domain endings, and it takes
addresses of internal domains for none.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from guardrails.types import Finding, Passage

_BONUS = 0.35
"""What a telling word nearby adds to a score, and the distance in characters that is nearby."""
_NEARBY = 40

_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@\w[\w-]{0,62}(?:\.\w[\w-]{0,62}){1,8}"
)
# Numbers written like phone numbers, in North America's way and internationally; Presidio's
# recogniser knows which numbers can exist, but "555-123-4567" is withheld all the same.
_PHONES = (
    re.compile(
        r"(?<![\w.-])(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-]|\.\d)"
    ),
    re.compile(r"(?<![\w.+-])\+\d{1,3}(?:[-. /]{0,2}\(?\d{1,4}\)?){2,7}(?![\w-]|\.\d)"),
)
_LOCAL_PHONE = re.compile(r"(?<![\w.-])\d{3}[-. ]\d{4}(?![\w-]|\.\d)")
_PHONE_WORDS = re.compile(
    r"\b(?:phones?|tel|telephone|cell|mobile|call(?:ed|ing)?|fax|dial|ring|whatsapp|sms|text me|"
    r"my number|number is|reach (?:me|us|him|her|them))\b",
    re.IGNORECASE,
)
_SSN_WORDS = re.compile(r"\b(?:social security|ssns?|social)\b", re.IGNORECASE)
_CARD_WORDS = re.compile(
    r"\b(?:credit|card|visa|mastercard|amex|discover|jcb|diners|maestro)\b", re.IGNORECASE
)
_BARE = re.compile(r"\d+")
_MIN_DIGITS = 7


class PersonalData:
    """Finds e-mail addresses, phone, card, bank account and US social security numbers."""

    name = "personal_data"

    def __init__(self) -> None:
        from presidio_analyzer.predefined_recognizers import (
            CreditCardRecognizer,
            IbanRecognizer,
            PhoneRecognizer,
            UsSsnRecognizer,
        )

        self._numbers: list[tuple[Any, re.Pattern[str] | None]] = [
            (PhoneRecognizer(), _PHONE_WORDS),
            (CreditCardRecognizer(), _CARD_WORDS),
            (IbanRecognizer(), None),
            (UsSsnRecognizer(), _SSN_WORDS),
        ]
        self.version = f"presidio {importlib.metadata.version('presidio-analyzer')}+1"

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        """Give the findings that end within each passage's text."""
        return [self._find(passage) for passage in passages]

    def _find(self, passage: Passage) -> list[Finding]:
        text = passage.context + passage.text
        shift = len(passage.context)
        found = []
        if "@" in text:
            found += [_span("EMAIL_ADDRESS", match, 0.95) for match in _EMAIL.finditer(text)]
        if sum(map(str.isdigit, text)) >= _MIN_DIGITS:
            found += self._presidio(text)
            found += _phones(text)
        return [
            Finding(self.name, label, start - shift, end - shift, score)
            for label, start, end, score in _best(found)
            if end > shift
        ]

    def _presidio(self, text: str) -> Iterable[_Found]:
        for recognizer, words in self._numbers:
            for hit in recognizer.analyze(text, recognizer.supported_entities, None) or []:
                score = float(hit.score)
                if hit.entity_type == "PHONE_NUMBER" and _BARE.fullmatch(text, hit.start, hit.end):
                    # Digits without any separator are as likely an order's number.
                    score -= 0.1
                if words is not None and _near(words, text, hit.start):
                    score = min(1.0, score + _BONUS)
                yield hit.entity_type, int(hit.start), int(hit.end), score


_Found = tuple[str, int, int, float]


def _span(label: str, match: re.Match[str], score: float) -> _Found:
    return label, match.start(), match.end(), score


def _phones(text: str) -> Iterable[_Found]:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            if _MIN_DIGITS <= sum(map(str.isdigit, match.group())) <= 15:
                yield _span("PHONE_NUMBER", match, 0.6)
    for match in _LOCAL_PHONE.finditer(text):
        if _near(_PHONE_WORDS, text, match.start()):
            yield _span("PHONE_NUMBER", match, 0.6)


def _near(words: re.Pattern[str], text: str, start: int) -> bool:
    return words.search(text, max(0, start - _NEARBY), start) is not None


def _best(found: Iterable[_Found]) -> Iterable[_Found]:
    """Keep the best score of each (label, span)."""
    best: dict[tuple[str, int, int], float] = {}
    for label, start, end, score in found:
        key = (label, start, end)
        best[key] = max(score, best.get(key, 0.0))
    return sorted(((*key, score) for key, score in best.items()), key=itemgetter(1))
