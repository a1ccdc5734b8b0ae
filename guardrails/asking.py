"""One stage of a policy at work: asks the judge, knows what its silence means, keeps the record."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from guardrails.catalog import CATALOG
from guardrails.errors import GuardUnavailable
from guardrails.plan import Decision, StagePlan
from guardrails.types import Action, AuditEntry, Field, Finding, Judge, Passage, Stage


class Asking:
    """The judge as one response sees it, with the audit of what was decided."""

    def __init__(
        self, stage: Stage, plan: StagePlan, judge: Judge, versions: Mapping[str, str] | None
    ) -> None:
        self.audit: list[AuditEntry] = []
        self.scanned = 0
        self._stage = stage
        self._plan = plan
        self._judge = judge
        # Kept as it is given, empty or not: a client fills it when it connects.
        self._versions = {} if versions is None else versions

    def ask(self, passages: Sequence[Passage]) -> Awaitable[list[list[Decision]]]:
        """Put passages to the judge in one call, now; await the result, in any case, later.

        Awaiting raises `GuardUnavailable` if a closed guard is silent.
        """
        self.scanned += sum([len(passage.text) for passage in passages])
        if not self._plan.remote or not passages:
            return self._decided(passages, None)
        return self._decided(passages, self._judge.judge(self._plan.remote, passages))

    async def _decided(
        self, passages: Sequence[Passage], asked: Awaitable[Sequence[Sequence[Finding]]] | None
    ) -> list[list[Decision]]:
        findings: Sequence[Sequence[Finding]] = [()] * len(passages)
        if asked is not None:
            try:
                findings = await asked
            except GuardUnavailable:
                self._note_silence()
                if self._plan.must_answer:
                    raise
        decide = self._plan.decide
        return [decide(passage, found) for passage, found in zip(passages, findings, strict=True)]

    def _note_silence(self) -> None:
        for rule in self._plan.rules:
            if rule.guard.name in self._plan.remote:
                finding = Finding(rule.guard.name, "unavailable", 0, 0, 0.0)
                self.note(Decision(rule, finding), "flag" if rule.fail_open else "block")

    def note(
        self,
        decision: Decision,
        action: Action,
        *,
        choice: int = 0,
        field: Field = "content",
        span: tuple[int, int] = (0, 0),
    ) -> AuditEntry:
        """Record a decision; `action` is what was done, which may be less than the rule says."""
        rule, finding = decision.rule, decision.finding
        name = rule.guard.name
        entry = AuditEntry(
            stage=self._stage,
            guard=name,
            version=self._versions.get(name) or CATALOG[name].version,
            label=finding.label,
            score=finding.score,
            threshold=rule.threshold,
            action=action,
            choice=choice,
            field=field,
            start=span[0],
            end=span[1],
        )
        self.audit.append(entry)
        return entry

    @property
    def flagged(self) -> bool:
        """Whether a reviewer should see this call: a guard flagged or blocked."""
        return any(entry.action in ("flag", "block") for entry in self.audit)
