"""What a slice has shown, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.gate.policy import GatePolicy
from trainer.gate.report import Compared, Role, Verdict, points


@dataclass(frozen=True, slots=True)
class Finding:
    """The numbers of one slice, before anything is decided. Fields as in `SliceReport`."""

    name: str
    n: int
    fixed: int
    broken: int
    exact_match: Compared
    f1: Compared
    p: float
    p_adjusted: float | None
    role: Role
    margin: float | None
    detectable: float | None
    policy: GatePolicy

    @property
    def significant(self) -> bool:
        """Whether the test, adjusted where others stand beside it, rejects equality."""
        return (self.p if self.p_adjusted is None else self.p_adjusted) < self.policy.alpha

    @property
    def shown(self) -> bool:
        """Whether exact match is shown to be as the role demands."""
        if self.margin is None:
            return self.exact_match.low > 0 and self.significant
        return self.exact_match.low > -self.margin

    @property
    def harmed(self) -> bool:
        """Whether exact match is shown to be worse than the role allows."""
        if self.margin is None:
            worse = self.significant and self.exact_match.difference < 0
            return worse or self.exact_match.high < 0
        return self.exact_match.high < -self.margin

    @property
    def f1_shown(self) -> bool:
        """Whether F1 is shown to be within its margin, where it has one."""
        margin = self.policy.f1_margin
        return margin is None or self.f1.low > -margin

    @property
    def f1_harmed(self) -> bool:
        """Whether F1 is shown to be beyond its margin."""
        margin = self.policy.f1_margin
        return margin is not None and self.f1.high < -margin

    @property
    def enough(self) -> bool:
        """Whether the slice has the items that it needs to pass."""
        return self.n >= self.policy.minimum_items_of(self.name)


def explain(finding: Finding, verdict: Verdict) -> str:
    """Say in one sentence why a slice has its verdict, with the numbers that decided."""
    return f"{_claim(finding, verdict)}: {_numbers(finding)}{_outlook(finding, verdict)}."


def _claim(finding: Finding, verdict: Verdict) -> str:
    if verdict is Verdict.INCONCLUSIVE and not finding.enough:
        needed = finding.policy.minimum_items_of(finding.name)
        return f"Only {finding.n} of the {needed} items that it takes to pass"
    if verdict is Verdict.FAIL and not finding.harmed:
        return f"F1 is worse by more than {_plain(finding.policy.f1_margin)} points"
    if verdict is Verdict.INCONCLUSIVE and finding.shown:
        return f"F1 may be worse by {_plain(finding.policy.f1_margin)} points or more"
    if finding.margin is None:
        return {
            Verdict.PASS: "Better",
            Verdict.FAIL: "Worse, where it had to be better",
            Verdict.INCONCLUSIVE: "Not shown to be better",
        }[verdict]
    margin = f"{_plain(finding.margin)} points"
    return {
        Verdict.PASS: f"Worse by less than {margin}, if at all",
        Verdict.FAIL: f"Worse by more than {margin}",
        Verdict.INCONCLUSIVE: f"May be worse by {margin} or more",
    }[verdict]


def _numbers(finding: Finding) -> str:
    found, level = finding.exact_match, f"{100 * finding.policy.level:g}%"
    parts = f"{level} interval {points(found.low)} to {points(found.high)}"
    if finding.margin is None:
        adjusted = finding.p if finding.p_adjusted is None else finding.p_adjusted
        parts += f", p = {adjusted:.2g}"
    text = (
        f"{finding.fixed} answers fixed and {finding.broken} broken of {finding.n}, "
        f"{points(found.difference)} points of exact match ({parts})"
    )
    if finding.policy.f1_margin is not None:
        overlap = finding.f1
        text += (
            f", F1 {points(overlap.difference)} points "
            f"({points(overlap.low)} to {points(overlap.high)})"
        )
    return text


def _outlook(finding: Finding, verdict: Verdict) -> str:
    """Say what could have been seen: a null result means little without it."""
    if verdict is not Verdict.INCONCLUSIVE:
        return ""
    if finding.detectable is None:
        return "; so few items cannot show any difference"
    return (
        f"; a true difference of {_plain(finding.detectable)} points would be seen "
        "in 4 of 5 such comparisons"
    )


def _plain(share: float | None) -> str:
    return f"{round(100 * (share or 0.0), 1):g}"
