"""From all rows that could be trained on to those that will be: pure functions, in a fixed order.

Blank rows, contradictions and exact duplicates, near duplicates, golden items. Each row that is
left out is counted by its reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedback.data.material import Candidate
from feedback.data.rows import normal
from feedback.data.similar import Texts

VERSION = 2
"""Of these rules; it goes into each data set's manifest."""

_RANK: Mapping[str, int] = {"correction": 0, "accepted": 1, "import": 2}


@dataclass(frozen=True, slots=True)
class Curated:
    """What is left, in an order that follows from the content alone, and what was left out."""

    rows: Sequence[Candidate]
    dropped: Mapping[str, int]
    conflicts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def curate(candidates: Iterable[Candidate], golden: Iterable[str]) -> Curated:
    """Leave out what must not be trained on. `golden` are the inputs of the golden items."""
    dropped: Counter[str] = Counter()
    rows = _without_blank(candidates, dropped)
    rows, conflicts = _one_answer_each(rows, dropped)
    rows = _without_near_duplicates(rows, dropped)
    rows = _without_golden(rows, golden, dropped)
    rows.sort(key=lambda row: (row.digest, row.origin))
    return Curated(rows, dict(sorted(dropped.items())), conflicts)


def _without_blank(rows: Iterable[Candidate], dropped: Counter[str]) -> list[Candidate]:
    kept = []
    for row in rows:
        if row.input.strip() and row.output.strip():
            kept.append(row)
        else:
            dropped["blank"] += 1
    return kept


def _one_answer_each(
    rows: Sequence[Candidate], dropped: Counter[str]
) -> tuple[list[Candidate], list[Mapping[str, Any]]]:
    """Keep one row for each question: corrections first, then accepted answers, then imports.

    Of several, the newest. A question to which reviewers gave contradicting corrections is left
    out: nobody decides here who of them is right. Accepted answers may well be put differently.
    """
    by_question: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for row in rows:
        by_question[row.question].append(row)
    kept: list[Candidate] = []
    conflicts: list[Mapping[str, Any]] = []
    for question in sorted(by_question):
        same = sorted(by_question[question], key=_precedence)
        corrections = _newest_of_each_reviewer(same)
        if len({normal(row.output) for row in corrections}) > 1:
            dropped["conflict"] += len(same)
            conflicts.append(_conflict(corrections))
            continue
        kept.append(same[0])
        if len(same) > 1:
            dropped["duplicate"] += len(same) - 1
    return kept, conflicts


def _precedence(row: Candidate) -> tuple[int, float, str]:
    return _RANK[row.origin], -row.at, row.digest


def _newest_of_each_reviewer(rows: Iterable[Candidate]) -> list[Candidate]:
    newest: dict[str, Candidate] = {}
    for row in rows:
        if row.origin == "correction":
            newest.setdefault(row.by, row)
    return list(newest.values())


def _conflict(corrections: Sequence[Candidate]) -> Mapping[str, Any]:
    first = corrections[0]
    return {
        "instruction": first.instruction,
        "input": first.input,
        "lineage": [dict(row.lineage) for row in corrections],
    }


def _without_near_duplicates(rows: Sequence[Candidate], dropped: Counter[str]) -> list[Candidate]:
    """Keep one of several rows with nearly the same input and the same answer.

    Rows that differ in their answer teach something, however alike their inputs are.
    """
    kept: list[Candidate] = []
    groups: dict[tuple[str, str], Texts] = defaultdict(Texts)
    for row in sorted(rows, key=_precedence):
        texts = groups[normal(row.instruction), normal(row.output)]
        if texts.has_like(row.input):
            dropped["near_duplicate"] += 1
        else:
            texts.add(row.input)
            kept.append(row)
    return kept


def _without_golden(
    rows: Sequence[Candidate], golden: Iterable[str], dropped: Counter[str]
) -> list[Candidate]:
    """Leave out rows that ask what a golden item asks, in the same or nearly the same words."""
    texts = Texts()
    for asked in golden:
        texts.add(asked)
    kept = [row for row in rows if not texts.has_like(row.input)]
    if len(kept) < len(rows):
        dropped["golden"] += len(rows) - len(kept)
    return kept
