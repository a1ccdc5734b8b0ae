"""A policy's stage made ready for use: which guards run, and what their findings lead to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from guardrails.catalog import CATALOG, MAX_WORD, GuardSpec
from guardrails.phrases import PhraseMatcher
from guardrails.types import Action, Finding, Passage

SENTENCE_CAP = 600
"""Longest unit in characters while a sentence-level guard is active."""

SPAN_CAP = 160
"""Longest unit in characters while only span-level guards are active: shorter waits, same tail."""

CONTEXT = 128
"""Characters before a unit that are shown to the guards, at least as long as any held tail."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy, compiled. `labels` is empty where every label counts."""

    guard: GuardSpec
    threshold: float
    action: Action
    fail_open: bool
    labels: frozenset[str] = frozenset()
    exempt: tuple[re.Pattern[str], ...] = ()

    def exempts(self, whole: str, start: int, end: int) -> bool:
        """Tell whether an exempt pattern covers this part of the text."""
        return any(
            match.start() <= start and end <= match.end()
            for pattern in self.exempt
            for match in pattern.finditer(whole)
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule makes of a finding; offsets are those of the finding."""

    rule: Rule
    finding: Finding


class StagePlan:
    """The guards of one stage of a policy, with all that can be worked out beforehand."""

    def __init__(self, rules: Sequence[Rule], phrases: PhraseMatcher | None) -> None:
        self.rules = tuple(rules)
        self.phrases = phrases
        specs = {rule.guard.name: rule.guard for rule in rules}
        self.remote = tuple(name for name in specs if name != "phrases")
        self.must_answer = any(not r.fail_open for r in rules if r.guard.name != "phrases")
        self.spans = tuple(spec for spec in specs.values() if spec.unit == "span")
        sentences = len(self.spans) < len(specs)
        self.cap = SENTENCE_CAP if sentences else SPAN_CAP
        widest = max((spec.max_span for spec in self.spans), default=0)
        # Whatever the widest span is, a unit must be able to get past its own tail.
        self.cap = max(self.cap, 2 * widest)
        self.context = max(CONTEXT, widest)
        self.reach = max(self.context, widest, MAX_WORD)

    def hold(self, text: str, sentence_over: bool) -> int:
        """Characters at the end of a judged text that must wait for what follows."""
        return max((spec.tail(text, sentence_over) for spec in self.spans), default=0)

    def decide(self, passage: Passage, findings: Sequence[Finding]) -> list[Decision]:
        """Put the rules to the findings of one passage, those of `phrases` included."""
        if not findings and self.phrases is None:
            return []
        if self.phrases is not None:
            findings = [*findings, *self.phrases.find(passage)]
        return [
            Decision(rule, finding)
            for finding in findings
            if finding.end > 0
            for rule in self.rules
            if self._applies(rule, finding, passage)
        ]

    def _applies(self, rule: Rule, finding: Finding, passage: Passage) -> bool:
        if rule.guard.name != finding.guard or finding.score < rule.threshold:
            return False
        if rule.labels and finding.label not in rule.labels:
            return False
        if not rule.exempt:
            return True
        shift = len(passage.context)
        whole = passage.context + passage.text
        return not rule.exempts(whole, finding.start + shift, finding.end + shift)


def sentence_plan() -> StagePlan:
    """A plan that cuts texts into sentences for the toxicity guard and decides nothing."""
    return StagePlan([Rule(CATALOG["toxicity"], 1.0, "annotate", fail_open=False)], None)
