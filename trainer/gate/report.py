"""The gate's report: as JSON for machines, as Markdown for those who decide."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from trainer.calibration import Calibration

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Role = Literal["superiority", "non-inferiority"]
_SHOWN = 120
_UNSEEN = ("Cf", "Cc", "Co")


@dataclass(frozen=True, slots=True)
class Mean:
    """The means of a score for both versions, and the interval of their difference."""

    candidate: float
    against: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Candidate minus the other."""
        return self.candidate - self.against


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What one slice shows, in shares of its items that are right.

    `gains` counts items that only the candidate has right, `losses` those that only the other has.
    `detectable` is the smallest true difference that so many items would probably have shown.
    """

    name: str
    n: int
    candidate: float
    against: float
    difference: float
    low: float
    high: float
    gains: int
    losses: int
    p: float
    p_adjusted: float | None
    role: Role
    margin: float
    detectable: float | None
    f1: Mean
    verdict: Verdict = "INCONCLUSIVE"
    reason: str = ""

    def judged(self, verdict: Verdict, reason: str) -> SliceResult:
        """Give the result with its verdict."""
        return replace(self, verdict=verdict, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """Give the result as JSON."""
        value = asdict(self)
        del value["name"]
        value["f1"]["difference"] = self.f1.difference
        return value


@dataclass(frozen=True, slots=True)
class Change:
    """An item that one version has right and the other wrong."""

    item_id: str
    slice: str
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """A verdict with all that it rests on."""

    candidate: str
    against: str
    golden_digest: str
    verdict: Verdict
    slices: Mapping[str, SliceResult]
    reasons: Sequence[str]
    fixed: Sequence[Change]
    broken: Sequence[Change]
    policy: Mapping[str, Any]
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    """By `candidate` and `against`: what a canary reads the risk of each one's answers from."""

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON."""
        return {
            "candidate": self.candidate,
            "against": self.against,
            "verdict": self.verdict,
            "golden_digest": self.golden_digest,
            "slices": {name: result.to_dict() for name, result in self.slices.items()},
            "reasons": list(self.reasons),
            "changed": {
                "fixed": [asdict(change) for change in self.fixed],
                "broken": [asdict(change) for change in self.broken],
            },
            "policy": dict(self.policy),
            "calibration": {name: one.to_dict() for name, one in self.calibration.items()},
        }

    def to_markdown(self) -> str:
        """Give the report for people; texts of models cannot break its form."""
        lines = [f"# {self.candidate} against {self.against}: {self.verdict}", ""]
        lines += [f"- {_text(reason, 400)}" for reason in self.reasons]
        level = f"{100 * (1 - self.policy['alpha']):g}%"
        head = f"| slice | items | before | after | difference | {level} interval | p | F1 | |"
        lines += ["", head]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_slice_line(result) for result in self.slices.values()]
        lines += ["", "How small a difference would probably have shown (80% power):", ""]
        lines += [_power_line(result) for result in self.slices.values()]
        lines += _examples("Now right", self.fixed) + _examples("Now wrong", self.broken)
        return "\n".join([*lines, "", f"Golden set {self.golden_digest[:12]}.", ""])


def _slice_line(found: SliceResult) -> str:
    role = "must improve" if found.role == "superiority" else f"margin {100 * found.margin:.0f}"
    cells = (
        _text(found.name or "all", 60),
        str(found.n),
        f"{100 * found.against:.1f}%",
        f"{100 * found.candidate:.1f}%",
        f"{100 * found.difference:+.1f}",
        f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
        f"{found.p:.2g}",
        f"{found.f1.against:.2f} → {found.f1.candidate:.2f}",
        f"{found.verdict}, {role}",
    )
    return f"| {' | '.join(cells)} |"


def _power_line(found: SliceResult) -> str:
    seen = f"{100 * found.detectable:.1f} points" if found.detectable is not None else "none"
    return f"- {_text(found.name or 'all', 60)}: {seen}"


def _examples(title: str, changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    lines = ["", f"## {title}", "", "| item | asked | expected | before | after |"]
    lines.append("|---|---|---|---|---|")
    for change in changes:
        texts = (change.item_id, change.prompt, change.expected, change.before, change.after)
        lines.append(f"| {' | '.join(_text(text, _SHOWN) for text in texts)} |")
    return lines


def _text(text: str, most: int) -> str:
    """Give a text for one cell: one line, shortened, with nothing that Markdown or HTML reads."""
    # Marks that turn the writing's direction could make a line read as another.
    seen = "".join(m for m in text if m.isspace() or unicodedata.category(m) not in _UNSEEN)
    line = " ".join(seen.split())
    short = line if len(line) <= most else f"{line[: most - 1]}…"
    escaped = short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#!":
        escaped = escaped.replace(mark, f"\\{mark}")
    # Bare addresses become links in many viewers.
    escaped = escaped.replace("://", "&#58;//").replace("www.", "www&#46;")
    return escaped or "—"
