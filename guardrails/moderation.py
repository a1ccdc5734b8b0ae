"""Moderation in OpenAI's shape, from the toxicity guard.

Only what the guard really tells is told: a classifier with one score knows harassment and no more;
one with Jigsaw's labels also knows hate, threats and sexual content. All else is false and 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from guardrails.plan import sentence_plan
from guardrails.types import Finding, Judge, Passage
from guardrails.window import Window

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""OpenAI's categories, in its order."""

_MEANS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "toxicity": ("harassment",),
        "severe_toxicity": ("harassment",),
        "insult": ("harassment",),
        "threat": ("harassment/threatening", "violence"),
        "identity_attack": ("hate",),
        "sexual_explicit": ("sexual",),
    }
)
"""Which categories a label of the toxicity guard speaks for."""


class CategoryScores(msgspec.Struct, frozen=True):
    """The verdict on one text, as one of `results` in the answer of `/v1/moderations`."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


async def moderate(
    judge: Judge, texts: Sequence[str], *, threshold: float = 0.8
) -> list[CategoryScores]:
    """Judge texts; a category is true from `threshold` on. Raises `GuardUnavailable`.

    Long texts are judged sentence by sentence, and the worst sentence counts.
    """
    passages = [_passages(text) for text in texts]
    findings = iter(
        await judge.judge(("toxicity",), [passage for each in passages for passage in each])
    )
    return [
        _verdict([found for _ in each for found in next(findings)], threshold) for each in passages
    ]


def _passages(text: str) -> list[Passage]:
    window = Window(sentence_plan())
    return [unit.passage for unit in (*window.push(text), *window.finish())]


def _verdict(findings: Sequence[Finding], threshold: float) -> CategoryScores:
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for finding in findings:
        for category in _MEANS.get(finding.label, ()):
            scores[category] = max(scores[category], finding.score)
    categories = {name: score >= threshold for name, score in scores.items()}
    return CategoryScores(
        flagged=any(categories.values()),
        categories=categories,
        category_scores=scores,
        category_applied_input_types={name: ["text"] for name in CATEGORIES},
    )
