from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.data.curation import curate
from feedback.data.material import Candidate, question_of

ACME = Path("deploy/examples/acme/data")


def row(input_: str, output: str = "yes", **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "instruction": "Answer.",
        "input": input_,
        "output": output,
        "slice": "s",
        "origin": "import",
        "lineage": {"ticket_id": 1},
        "at": 1.0,
        "by": "",
    }
    return Candidate(**values | changes)


def review(input_: str, output: str, by: str, at: float) -> Candidate:
    return row(input_, output, origin="correction", lineage={"review_id": at}, by=by, at=at)


def test_the_same_question_is_kept_once_and_a_correction_wins() -> None:
    found = curate([row("What now?"), review("what  NOW", "no", "ann", 2.0)], [])
    assert [one.output for one in found.rows] == ["no"]
    assert found.dropped == {"duplicate": 1}


def test_a_reviewers_newer_correction_replaces_the_older() -> None:
    older, newer = review("What?", "a", "ann", 2.0), review("What?", "b", "ann", 3.0)
    assert [one.output for one in curate([older, newer], []).rows] == ["b"]


def test_reviewers_who_contradict_each_other_are_left_to_people() -> None:
    several = [row("What?"), review("What?", "a", "ann", 2.0), review("What?", "b", "ben", 3.0)]
    found = curate([*several, row("Else?")], [])
    assert [one.input for one in found.rows] == ["Else?"]
    assert found.dropped == {"conflict": 3}
    assert found.conflicts[0]["input"] == "What?"


LONG = " ".join(f"word{number}" for number in range(40))


def test_near_duplicates_go_only_where_the_answer_is_the_same() -> None:
    near = f"{LONG} more"
    assert curate([row(LONG), row(near)], []).dropped == {"near_duplicate": 1}
    assert len(curate([row(LONG, "a"), row(near, "b")], []).rows) == 2


@pytest.mark.parametrize("asked", ["What is it?", "what IS  it", LONG, f"{LONG} more"])
def test_golden_items_never_train(asked: str) -> None:
    golden = [("Another instruction.", "What is it?"), ("Answer.", LONG)]
    found = curate([row(asked), row("Something else entirely")], golden)
    assert [one.input for one in found.rows] == ["Something else entirely"]
    assert found.dropped == {"golden": 1}


def test_blank_rows_are_no_rows() -> None:
    assert not curate([row("  "), row("a", " ")], []).rows


def test_the_example_business_keeps_its_rows() -> None:
    """Templates make tickets alike; what differs in product or order is no duplicate."""
    rows = [json.loads(line) for line in (ACME / "train.jsonl").read_text("utf-8").splitlines()]
    golden = [json.loads(line) for line in (ACME / "golden.jsonl").read_text("utf-8").splitlines()]
    candidates = [row(r["input"], r["output"], instruction=r["instruction"]) for r in rows]
    found = curate(candidates, [(item["instruction"], item["input"]) for item in golden])
    assert "golden" not in found.dropped
    assert len(found.rows) >= 0.95 * len(rows)
    verbatim = [row(f" {item['input'].upper()} ", "x") for item in golden]
    assert not curate(verbatim, [(g["instruction"], g["input"]) for g in golden]).rows


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text("ab ", max_size=6), st.sampled_from("xy")), max_size=12),
    st.integers(),
)
def test_the_order_of_the_rows_does_not_matter_and_again_changes_nothing(
    given_: list[tuple[str, str]], seed: int
) -> None:
    rows = [row(text, answer) for text, answer in given_]
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    once = curate(rows, [("Answer.", "a b")])
    assert [one.digest for one in curate(mixed, [("Answer.", "a b")]).rows] == [
        one.digest for one in once.rows
    ]
    again = curate(once.rows, [("Answer.", "a b")])
    assert list(again.rows) == list(once.rows)
    assert again.dropped == {}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "system", "content": "i"}, {"role": "user", "content": "q"}], ("i", "q")),
        ([{"role": "user", "content": "q"}], ("", "q")),
        ([{"role": "user", "content": "q"}] * 2, "several_turns"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "r"}], "several_turns"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "no_text"),
        ([], "several_turns"),
    ],
)
def test_a_conversation_of_one_turn_is_a_question(messages: Any, expected: Any) -> None:
    assert question_of(messages) == expected
