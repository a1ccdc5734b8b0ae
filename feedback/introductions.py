"""Names of people where a text introduces, addresses or signs them.

This needs no language model and is precise rather than complete: product names are never taken for
people, and a name that stands anywhere else is found only because it was introduced in the same
record. The guard `names`, where it runs, finds the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = r"[^\W\d_a-z](?:[^\W\d_]*['\u2019-])*[^\W\d_]+"
_LAST = rf"(?:(?:van|von|der|den|de|di|da|del|la|bin|al)[ \t]+){{0,2}}{_NAME}"
_FULL = rf"(?-i:{_LAST}(?:[ \t]+{_LAST}){{0,2}})"
# A name in small letters is taken for one only where nothing else follows.
_SMALL = r"[^\W\d_]+ [^\W\d_]+(?=\s*(?:[,.!;\n]|and\b|\Z))"
_TITLED = re.compile(
    rf"\b(?:mr|mrs|ms|miss|mx|dr|prof|frau|herr)\b\.?[ \t]+(?P<name>{_FULL})", re.I
)
# With each pattern, words of which one stands in every match: to look for these is far cheaper.
_PATTERNS = (
    (
        ("name is",),
        re.compile(rf"\bmy (?:full |first |last )?name is[ \t]+(?P<name>{_FULL}|{_SMALL})", re.I),
    ),
    (
        ("i am", "i'm", "i\u2019m", "this is"),
        re.compile(
            rf"\b(?:i am|i'm|i\u2019m|this is)[ \t]+(?P<name>(?-i:{_NAME}[ \t]+{_NAME}))", re.I
        ),
    ),
    (
        ("hi ", "hi,", "hi\t", "hello", "hey", "dear"),
        re.compile(rf"\b(?:hi|hello|hey|dear)[ ,\t]+(?P<name>{_FULL})(?=\s*[,!.\n:]|\s*\Z)", re.I),
    ),
    (
        ("mr", "ms", "miss", "mx", "dr", "prof", "frau", "herr"),
        _TITLED,
    ),
    (
        ("regards", "wishes", "greetings", "sincerely", "yours", "cheers", "thank"),
        re.compile(
            r"\b(?:regards|wishes|greetings|sincerely(?: yours)?|yours(?: truly| sincerely)?|"
            r"cheers|thanks|thank you)[ \t]*,?[ \t]*\n\s*[-\u2013]*[ \t]*"
            rf"(?P<name>{_FULL})[ \t]*(?=\n|\Z)",
            re.I,
        ),
    ),
)
_COMMON = (
    "mr mrs ms miss mx dr prof "
    "all team there everyone everybody support customer sir madam folks colleagues friends i "
    "the a an you we they it not very so and or but my our your this that please january february "
    "march april may june july august september october november december monday tuesday wednesday "
    "thursday friday saturday sunday"
)
_NOT_NAMES = frozenset(_COMMON.split())
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def introduced(text: str) -> list[tuple[int, int]]:
    """Give the spans of names that the text introduces."""
    spans = []
    lower = text.lower()
    for signs, pattern in _PATTERNS:
        if not any(sign in lower for sign in signs):
            continue
        for match in pattern.finditer(text):
            words = [word.group().casefold() for word in _WORD.finditer(match.group("name"))]
            if not _NOT_NAMES.intersection(words):
                spans.append(match.span("name"))
    return spans


def last_names(text: str) -> set[str]:
    """Give the single words, case-folded, that stand as names behind a title."""
    names = {match.group("name").casefold() for match in _TITLED.finditer(text)}
    return {name for name in names if len(name.split()) == 1 and name not in _NOT_NAMES}


def mentions(text: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """Give where known names, or single capitalised words of them, stand in a text."""
    words = {
        word.group()
        for name in names
        for word in _WORD.finditer(name)
        if len(word.group()) > 2 and not word.group().islower()
    }
    if not words:
        return []
    one = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return [match.span() for match in re.finditer(rf"\b(?:{one})(?:[ \t]+(?:{one}))*\b", text)]
