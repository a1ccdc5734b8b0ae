"""A judge for tests: finds what it is told to find, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guardrails.catalog import CATALOG
from guardrails.errors import GuardUnavailable
from guardrails.types import Finding, Passage


class FakeJudge:
    """Finds scripted words.

    `script` maps a word or phrase to (guard, label, score): a sentence-level guard then finds it
    anywhere in the text, a span-level one gives its place, over the border to the context too.
    `calls` keeps what was asked. While `down` is true, every call raises `GuardUnavailable`.
    """

    def __init__(
        self, script: Mapping[str, tuple[str, str, float]] | None = None, *, down: bool = False
    ) -> None:
        self.script = dict(script or {})
        self.down = down
        self.calls: list[tuple[tuple[str, ...], tuple[Passage, ...]]] = []
        self.versions = dict.fromkeys(CATALOG, "fake")

    async def judge(
        self, guards: Sequence[str], passages: Sequence[Passage]
    ) -> list[list[Finding]]:
        """Give the scripted findings of each passage."""
        self.calls.append((tuple(guards), tuple(passages)))
        if self.down:
            raise GuardUnavailable
        return [self._find(guards, passage) for passage in passages]

    def _find(self, guards: Sequence[str], passage: Passage) -> list[Finding]:
        found: list[Finding] = []
        for phrase, (guard, label, score) in self.script.items():
            if guard not in guards:
                continue
            if CATALOG[guard].unit == "sentence":
                if phrase in passage.text:
                    found.append(Finding(guard, label, 0, len(passage.text), score))
                continue
            found += _places(phrase, guard, label, score, passage)
        return found


def _places(phrase: str, guard: str, label: str, score: float, passage: Passage) -> list[Finding]:
    whole, shift = passage.context + passage.text, len(passage.context)
    found = []
    at = whole.find(phrase)
    while at >= 0:
        end = at + len(phrase)
        if end > shift:
            found.append(Finding(guard, label, at - shift, end - shift, score))
        at = whole.find(phrase, at + 1)
    return found
