"""How right an answer is: exact match and F1, for plain text and for JSON objects."""

from __future__ import annotations

import json
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable
from statistics import fmean
from typing import Any, TypedDict

from trainer.evaluation import Evaluation

ARTICLES = frozenset({"a", "an", "the"})


class SliceSummary(TypedDict):
    """Number of items in a slice, and the means of both metrics, 0 to 1."""

    n: int
    exact_match: float
    f1: float


def exact_match(said: str, expected: str) -> bool:
    """Tell whether the whole answer is right.

    Text counts without the white space around it. Where a JSON object is expected, values are
    compared: the order of keys and white space do not count; `true` is not 1, `"1"` neither.
    """
    wanted = _parse_object(expected)
    if wanted is None:
        return said.strip() == expected.strip()
    given = _parse_object(said)
    return given is not None and _frozen(given) == _frozen(wanted)


def f1(said: str, expected: str) -> float:
    """Give the overlap of both, 0 to 1: the harmonic mean of precision and recall.

    Over tokens as in SQuAD (Rajpurkar et al. 2016: lower case, without punctuation and English
    articles); over (key, value) pairs where a JSON object is expected.
    """
    wanted = _parse_object(expected)
    if wanted is not None:
        given = _parse_object(said)
        return 0.0 if given is None else _overlap(_pairs(given), _pairs(wanted))
    left, right = Counter(_tokens(said)), Counter(_tokens(expected))
    if not right:  # nothing but punctuation and articles is expected
        return float(exact_match(said, expected))
    return _overlap(left, right)


def summary(evaluation: Evaluation) -> dict[str, SliceSummary]:
    """Give both metrics' means by slice, in the order of the slices' names."""
    scores: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for answer in evaluation.answers:
        score = exact_match(answer.said, answer.expected), f1(answer.said, answer.expected)
        scores[answer.slice].append(score)
    return {
        name: {
            "n": len(rows),
            "exact_match": fmean(exact for exact, _ in rows),
            "f1": fmean(overlap for _, overlap in rows),
        }
        for name, rows in sorted(scores.items())
    }


def _parse_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # a model may say anything, nested without end too
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _frozen(value: Any) -> Hashable:
    """Give a hashable stand-in that is equal for equal JSON values only (in Python, True == 1)."""
    match value:
        case dict():
            return "object", frozenset((key, _frozen(item)) for key, item in value.items())
        case list():
            return "array", tuple(_frozen(item) for item in value)
        case bool():
            return "boolean", value
        case _:
            return value


def _pairs(value: dict[str, Any]) -> Counter[Hashable]:
    return Counter((key, _frozen(item)) for key, item in value.items())


def _tokens(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if not _is_punctuation(character))
    return [word for word in kept.split() if word not in ARTICLES]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _overlap(left: Counter[Any], right: Counter[Any]) -> float:
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0
