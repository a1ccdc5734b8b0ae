"""What the gate found: as JSON for the record, as Markdown for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

KEPT = 2_000  # characters of a text in the record
SHOWN = 160  # characters of a text in the Markdown

_SPECIAL = re.compile(r"[\\`*_\[\]|~#!]|(?<=:)//|(?<=www)\.")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Verdict(StrEnum):
    """What is known of a candidate: shown to be good, shown to do harm, or neither."""

    PASS = "PASS"  # noqa: S105 -- a verdict, not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"


class Role(StrEnum):
    """What a slice must show."""

    SUPERIORITY = "superiority"
    NON_INFERIORITY = "non-inferiority"


@dataclass(frozen=True, slots=True)
class Compared:
    """A metric's means of both versions, and the interval of their difference."""

    candidate: float
    against: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SliceReport:
    """One slice: exact match, how sure that is, and what follows.

    `fixed` counts the items that only the candidate has right, `broken` those that only the other
    version has. `p` is McNemar's; `p_adjusted` is Holm's over the slices that must be better.
    """

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
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Give it as a JSON object, the metric's numbers at the top."""
        rest = asdict(self)
        del rest["name"], rest["exact_match"]
        rest |= {"role": str(self.role), "verdict": str(self.verdict)}
        return {"n": self.n, **asdict(self.exact_match), **rest}


@dataclass(frozen=True, slots=True)
class Example:
    """An item on which both versions differ in being right."""

    item_id: str
    slice: str
    prompt: str
    expected: str
    before: str
    after: str

    def to_dict(self) -> dict[str, str]:
        """Give it as a JSON object, long texts cut."""
        return {name: shorten(text, KEPT) for name, text in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's verdict on a candidate against another version, with all it rests on."""

    candidate: str
    against: str
    verdict: Verdict
    golden_digest: str
    slices: tuple[SliceReport, ...]
    reasons: tuple[str, ...]
    fixed: tuple[Example, ...]
    broken: tuple[Example, ...]
    policy: Mapping[str, Any] = field(hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Give it as a JSON object."""
        return {
            "candidate": self.candidate,
            "against": self.against,
            "verdict": str(self.verdict),
            "golden_digest": self.golden_digest,
            "slices": {each.name: each.to_dict() for each in self.slices},
            "reasons": list(self.reasons),
            "changed": {
                "fixed": [example.to_dict() for example in self.fixed],
                "broken": [example.to_dict() for example in self.broken],
            },
            "policy": dict(self.policy),
        }

    def to_markdown(self) -> str:
        """Give it for a reader who decides: verdict, reasons, numbers, answers that changed."""
        parts = [
            f"# Gate: {self.verdict}",
            f"**{escape(self.candidate)}** against **{escape(self.against)}**, "
            f"golden set {escape(self.golden_digest[:12])}",
            "\n".join(f"- {escape(reason, KEPT)}" for reason in self.reasons),
            "## Slices",
            _table(self.slices, self.policy),
        ]
        parts += _examples("Broken: right before, wrong now", self.broken)
        parts += _examples("Fixed: wrong before, right now", self.fixed)
        return "\n\n".join(parts) + "\n"


def title(name: str) -> str:
    """Give a slice's name for a sentence or a table; items may belong to none."""
    return name or "(no slice)"


def points(share: float) -> str:
    """Write a difference of shares in points, with its sign."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"


def shorten(text: str, length: int) -> str:
    """Cut a text to a length, with an ellipsis where something is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def escape(text: str, length: int = SHOWN) -> str:
    """Make one short line of any text, such that Markdown shows it as it is.

    What a model says may hold table bars, HTML, links, line breaks or marks that turn the direction
    of writing: none of it takes effect.
    """
    line = shorten(" ".join(text.split()), length)
    visible = "".join(character if character.isprintable() else "\ufffd" for character in line)
    marked = _SPECIAL.sub(lambda found: "".join(f"\\{mark}" for mark in found[0]), visible)
    return "".join(_HTML.get(character, character) for character in marked)


def _table(slices: Sequence[SliceReport], policy: Mapping[str, Any]) -> str:
    level = f"{100 * (1 - policy['alpha']):g}%"
    heads = ["slice", "must be", "items", "before", "now", f"difference, points ({level} interval)"]
    heads += ["p", "fixed, broken", "could be seen, points", "F1 before, now", "verdict"]
    rows = [heads, ["---"] * len(heads), *map(_cells, slices)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(each: SliceReport) -> list[str]:
    found, p = each.exact_match, each.p if each.p_adjusted is None else each.p_adjusted
    return [
        escape(title(each.name)),
        "better" if each.margin is None else f"at most {100 * each.margin:g} points worse",
        str(each.n),
        f"{found.against:.1%}",
        f"{found.candidate:.1%}",
        f"{points(found.difference)} ({points(found.low)} to {points(found.high)})",
        f"{p:.2g}",
        f"{each.fixed}, {each.broken}",
        "none" if each.detectable is None else f"{100 * each.detectable:.1f}",
        f"{each.f1.against:.3f}, {each.f1.candidate:.3f}",
        str(each.verdict),
    ]


def _examples(title: str, examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    parts = [f"## {title}"]
    for number, each in enumerate(examples, start=1):
        lines = [
            f"{number}. {escape(each.item_id)} ({escape(title(each.slice))})",
            f"   - prompt: {escape(each.prompt)}",
            f"   - expected: {escape(each.expected)}",
            f"   - before: {escape(each.before)}",
            f"   - after: {escape(each.after)}",
        ]
        parts.append("\n".join(lines))
    return parts
