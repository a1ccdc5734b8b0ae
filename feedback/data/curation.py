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

VERSION = 1
"""Of these rules; it goes into each data set's manifest."""
THRESHOLD = 0.9
"""Jaccard similarity of two inputs' shingles from which they count as nearly the same."""
SHINGLE = 3
PERMUTATIONS = 128

_RANK: Mapping[str, int] = {"correction": 0, "accepted": 1, "import": 2}


@dataclass(frozen=True, slots=True)
class Curated:
    """What is left, in an order that follows from the content alone, and what was left out."""

    rows: Sequence[Candidate]
    dropped: Mapping[str, int]
    conflicts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def curate(candidates: Iterable[Candidate], golden: Iterable[tuple[str, str]]) -> Curated:
    """Leave out what must not be trained on. `golden` are the items' instructions and inputs."""
    dropped: Counter[str] = Counter()
    rows = [row for row in candidates if row.input.strip() and row.output.strip()]
    rows, conflicts = _one_answer_each(rows, dropped)
    rows = _without_near_duplicates(rows, dropped)
    rows = _without_golden(rows, list(golden), dropped)
    rows.sort(key=lambda row: (row.digest, row.origin))
    return Curated(rows, dict(sorted(dropped.items())), conflicts)


def _one_answer_each(
    rows: Sequence[Candidate], dropped: Counter[str]
) -> tuple[list[Candidate], list[Mapping[str, Any]]]:
    """Keep one row for each question: reviewed before imported, newer before older.

    Reviewers that contradict each other are nobody's to decide here: none of theirs is kept.
    """
    by_question: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for row in rows:
        by_question[row.question].append(row)
    kept: list[Candidate] = []
    conflicts: list[Mapping[str, Any]] = []
    for same in by_question.values():
        reviewed = [row for row in same if row.origin != "import"]
        answers = {normal(row.output) for row in reviewed}
        if len(answers) > 1 and len({row.by for row in reviewed}) > 1:
            dropped["conflict"] += len(same)
            conflicts.append(
                {"input": same[0].input, "lineage": [dict(r.lineage) for r in reviewed]}
            )
            continue
        best = min(same, key=lambda row: (_RANK[row.origin], -row.at, row.digest))
        kept.append(best)
        dropped["duplicate"] += len(same) - 1
    if not dropped["duplicate"]:
        del dropped["duplicate"]
    return kept, conflicts


def _without_near_duplicates(rows: Sequence[Candidate], dropped: Counter[str]) -> list[Candidate]:
    """Keep one of several rows with nearly the same input and the same answer.

    Rows that differ in their answer teach something, however alike their inputs are.
    """
    ordered = sorted(rows, key=lambda row: (_RANK[row.origin], -row.at, row.digest))
    kept: list[Candidate] = []
    index: dict[tuple[str, str], Any] = {}
    for row in ordered:
        group = (normal(row.instruction), normal(row.output))
        if group not in index:
            index[group] = _index()
        lsh = index[group]
        sketch = _sketch(row.input)
        # The index is approximate; what it proposes is looked at exactly.
        if any(_alike(row.input, kept[place].input) for place in lsh.query(sketch)):
            dropped["near_duplicate"] += 1
            continue
        lsh.insert(len(kept), sketch)
        kept.append(row)
    return kept


def _without_golden(
    rows: Sequence[Candidate], golden: Sequence[tuple[str, str]], dropped: Counter[str]
) -> list[Candidate]:
    """Leave out rows that ask what a golden item asks, in the same or nearly the same words."""
    exact = {normal(question) for _, question in golden}
    lsh = _index()
    for place, (_, question) in enumerate(golden):
        lsh.insert(place, _sketch(question))
    kept = []
    for row in rows:
        near = (golden[place][1] for place in lsh.query(_sketch(row.input)))
        if normal(row.input) in exact or any(_alike(row.input, other) for other in near):
            dropped["golden"] += 1
        else:
            kept.append(row)
    return kept


def _shingles(text: str) -> set[str]:
    words = normal(text).split()
    if len(words) <= SHINGLE:
        return {" ".join(words)}
    return {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def _index() -> Any:
    # datasketch brings SciPy along, which a gateway that makes no data sets does without.
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)


def _sketch(text: str) -> Any:
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS)
    sketch.update_batch([shingle.encode() for shingle in _shingles(text)])
    return sketch


def _alike(one: str, other: str) -> bool:
    left, right = _shingles(one), _shingles(other)
    return len(left & right) >= THRESHOLD * len(left | right)
