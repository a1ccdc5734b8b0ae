"""Policies: which guards run on what, at which threshold, and what follows from a finding.

A file holds one default policy and others per alias and per key (a key's goes before an alias's):

    default:
      guards:
        - {guard: toxicity, stage: output, threshold: 0.9, action: block}
    aliases:
      support: {guards: []}
    keys:
      key_123: {guards: []}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic import Field as field

from guardrails.catalog import CATALOG, NAME_LABELS, PATTERN_LABELS
from guardrails.phrases import PhraseMatcher
from guardrails.plan import Rule, StagePlan
from guardrails.types import Action, Stage

GuardName = Literal["toxicity", "personal_data", "names", "phrases"]

_LABELS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"personal_data": PATTERN_LABELS, "names": NAME_LABELS}
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GuardRule(_Frozen):
    """One guard at one stage. A finding counts from `threshold` (0 to 1) on."""

    guard: GuardName
    stage: Stage
    threshold: float = field(0.4, ge=0, le=1)
    action: Action
    labels: tuple[str, ...] = field((), description="kinds that count; empty: all of the guard")
    phrases: tuple[str, ...] = field((), description="for the guard `phrases`: what is denied")
    exempt: tuple[str, ...] = field((), description="patterns that are never a finding")
    on_failure: Literal["closed", "open"] = "closed"

    @field_validator("exempt")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _fits_its_guard(self) -> Self:
        if self.action == "redact" and CATALOG[self.guard].unit == "sentence":
            raise ValueError(f"{self.guard} judges whole sentences: block, flag or annotate")
        if (self.guard == "phrases") != bool(self.phrases):
            raise ValueError("`phrases` belongs to the guard `phrases`, which needs it")
        if any(not phrase.strip() for phrase in self.phrases):
            raise ValueError("a denied phrase must not be blank")
        if unknown := set(self.labels) - _LABELS.get(self.guard, frozenset()):
            known = ", ".join(sorted(_LABELS.get(self.guard, frozenset()))) or "none"
            raise ValueError(f"{self.guard} has no {', '.join(sorted(unknown))}; it has: {known}")
        return self


class Policy(_Frozen):
    """A set of guards. `version` is a digest of what it says, whatever its name."""

    name: str = "default"
    guards: tuple[GuardRule, ...] = ()

    @model_validator(mode="after")
    def _one_phrase_list_a_stage(self) -> Self:
        stages = [rule.stage for rule in self.guards if rule.guard == "phrases"]
        if len(stages) > len(set(stages)):
            raise ValueError("one `phrases` guard a stage: put all phrases into its list")
        return self

    @cached_property
    def version(self) -> str:
        """Digest of the policy's content, 12 hexadecimal digits."""
        content = self.model_dump_json(exclude={"name"}).encode()
        return hashlib.sha256(content).hexdigest()[:12]

    @cached_property
    def input(self) -> StagePlan:
        """The guards of prompts, ready for use."""
        return self._plan("input")

    @cached_property
    def output(self) -> StagePlan:
        """The guards of answers, ready for use."""
        return self._plan("output")

    def _plan(self, stage: Stage) -> StagePlan:
        rules = [rule for rule in self.guards if rule.stage == stage]
        denied = next((rule.phrases for rule in rules if rule.phrases), ())
        matcher = PhraseMatcher(denied) if denied else None
        return StagePlan([_compiled(rule, matcher) for rule in rules], matcher)


def _compiled(rule: GuardRule, matcher: PhraseMatcher | None) -> Rule:
    spec = CATALOG[rule.guard]
    if rule.guard == "phrases" and matcher is not None:
        spec = replace(spec, max_span=matcher.max_span, hold=matcher.hold)
    return Rule(
        guard=spec,
        threshold=rule.threshold,
        action=rule.action,
        fail_open=rule.on_failure == "open",
        labels=frozenset(rule.labels),
        exempt=tuple(re.compile(pattern) for pattern in rule.exempt),
    )


def default_policy() -> Policy:
    """The policy where no file gives one: calm on prompts, firm on answers."""
    return Policy(
        guards=(
            GuardRule(guard="toxicity", stage="input", threshold=0.9, action="flag"),
            GuardRule(guard="toxicity", stage="output", threshold=0.8, action="block"),
            GuardRule(
                guard="personal_data",
                stage="output",
                threshold=0.4,
                action="redact",
                labels=tuple(sorted(PATTERN_LABELS)),
            ),
        )
    )
