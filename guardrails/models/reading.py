"""How sentence-level models read a unit: as a whole, and in parts.

A unit of the window may hold several lines or several short sentences, and an insult among them
would drown in the mean. So a model scores the whole and each part, and the worst counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guardrails.types import Passage

_PARTS = re.compile(r"(?<=[.!?;])\s+|\n+")
_OVER = re.compile(r"(?:[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]*_]*\s*|\n\s*)\Z")


def readings(passage: Passage) -> list[str]:
    """Give the texts to score for a passage; the verdict on it is the highest score of them."""
    text = passage.text.strip()
    texts = [text]
    parts = [part for part in _PARTS.split(text) if part.strip()]
    if len(parts) > 1:
        texts += parts
    if passage.context and not _OVER.search(passage.context):
        # The unit goes on a sentence that was split for its length: read over the cut.
        before = _PARTS.split(passage.context)[-1]
        texts.append(f"{before}{parts[0] if parts else text}")
    return texts


def worst(scores: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Give the highest of each run of scores; run lengths are in `counts`."""
    out, at = [], 0
    for count in counts:
        out.append(max(scores[at : at + count]))
        at += count
    return out
