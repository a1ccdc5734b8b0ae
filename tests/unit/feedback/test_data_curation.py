from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.data.curation import curate
from feedback.data.material import Candidate, Material, from_review, in_force, question_of

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
    found = curate([row("What now?"), review("what  NOW?", "no", "ann", 2.0)], [])
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


@pytest.mark.parametrize("asked", ["What is it?", "what IS  it", LONG, f"{LONG}, more"])
def test_golden_items_never_train(asked: str) -> None:
    golden = ["What is it?", LONG]
    found = curate([row(asked), row("Something else entirely")], golden)
    assert [one.input for one in found.rows] == ["Something else entirely"]
    assert found.dropped == {"golden": 1}


def test_blank_rows_are_no_rows() -> None:
    found = curate([row("  "), row("a", " ")], [])
    assert (found.rows, found.dropped) == ([], {"blank": 2})


def test_a_reviewer_who_comes_round_contradicts_nobody() -> None:
    both = [review("What?", "a", "ann", 1.0), review("What?", "b", "ben", 2.0)]
    assert curate(both, []).dropped == {"conflict": 2}
    found = curate([*both, review("What?", " B", "ann", 3.0)], [])
    assert [one.output for one in found.rows] == [" B"]
    assert found.dropped == {"duplicate": 2}


def test_accepted_answers_may_be_put_differently() -> None:
    accepted = [
        row("What?", said, origin="accepted", by=by, at=at)
        for said, by, at in (("Nine euros.", "ann", 1.0), ("9 euros", "ben", 2.0))
    ]
    assert [one.output for one in curate(accepted, []).rows] == ["9 euros"]
    corrected = curate([*accepted, review("What?", "Ten.", "cat", 0.5)], [])
    assert [one.output for one in corrected.rows] == ["Ten."]


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is C++?", "What is C#?"), ("कि", "का"), ("😀", "😡"), ("5 < 3", "5 > 3"), ("-5", "5")],
)
def test_signs_and_marks_tell_questions_apart(one: str, other: str) -> None:
    assert len(curate([row(one), row(other)], []).rows) == 2
    assert len(curate([row(one)], [other]).rows) == 1


def test_near_duplicates_are_found_among_many() -> None:
    """Past a few texts an index proposes them; a golden item must not slip through it."""
    draw = random.Random(5)
    names = [f"word{number}" for number in range(2000)]
    golden = [" ".join(draw.choices(names, k=50)) for _ in range(200)]
    changed = [f"{text} {draw.choice(names)} {draw.choice(names)}" for text in golden]
    others = [" ".join(draw.choices(names, k=50)) for _ in range(200)]
    found = curate([row(text) for text in (*changed, *others)], golden)
    assert found.dropped == {"golden": 200}
    assert {one.input for one in found.rows} == set(others)


def test_texts_without_spaces_have_words_too() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(60))
    assert curate([row(text), row(f"{text}\u3002"), row(text[::-1])], []).dropped == {
        "near_duplicate": 1
    }
    assert curate([row(text[1:])], [text]).dropped == {"golden": 1}


def test_the_example_business_keeps_its_rows() -> None:
    """Templates make tickets alike; what differs in product or order is no duplicate."""
    rows = [json.loads(line) for line in (ACME / "train.jsonl").read_text("utf-8").splitlines()]
    golden = [json.loads(line) for line in (ACME / "golden.jsonl").read_text("utf-8").splitlines()]
    candidates = [row(r["input"], r["output"], instruction=r["instruction"]) for r in rows]
    found = curate(candidates, [item["input"] for item in golden])
    assert "golden" not in found.dropped
    assert len(found.rows) >= 0.95 * len(rows)
    verbatim = [row(f" {item['input'].upper()} ", "x") for item in golden]
    assert not curate(verbatim, [item["input"] for item in golden]).rows


@settings(max_examples=30)
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
    once = curate(rows, ["a b"])
    assert [one.digest for one in curate(mixed, ["a b"]).rows] == [one.digest for one in once.rows]
    again = curate(once.rows, ["a b"])
    assert list(again.rows) == list(once.rows)
    assert again.dropped == {}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "system", "content": "i"}, {"role": "user", "content": "q"}], ("i", "q")),
        ([{"role": "user", "content": "q"}], ("", "q")),
        ([{"role": "user", "content": "q"}] * 2, "several_turns"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "r"}], "several_turns"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "not_text"),
        ([{"role": "user", "content": [{"type": "text", "text": "q"}]}], ("", "q")),
        (["q"], "not_text"),
        ([], "several_turns"),
    ],
)
def test_a_conversation_of_one_turn_is_a_question(messages: Any, expected: Any) -> None:
    assert question_of(messages) == expected


def reviewed(verdict: str = "correct", **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "item_id": 1,
        "review_id": 1,
        "reviewer": "ann",
        "verdict": verdict,
        "correction": None,
        "created_at": 1.0,
        "response_id": "chatcmpl-1",
        "version": 1,
        "messages": [{"role": "user", "content": "q"}],
        "parameters": {},
        "choices": [{"index": 0, "content": "a"}],
    }
    return values | changes


@pytest.mark.parametrize(
    ("row_", "expected"),
    [
        (reviewed("wrong"), "no_correction"),
        (reviewed("unsafe"), "unsafe"),
        (reviewed("skip"), "skip"),
        (reviewed(choices=[{"index": 0, "content": None}]), "not_text"),
        (reviewed(choices=[]), "not_text"),
        (reviewed(choices=[{"index": 0, "content": "a", "tool_calls": [{}]}]), "not_text"),
        (reviewed(parameters={"tools": [{"type": "function"}]}), "not_text"),
        (reviewed(messages=[]), "several_turns"),
    ],
)
def test_what_gives_no_row_says_why(row_: dict[str, Any], expected: str) -> None:
    assert from_review(row_, Material({})) == expected


def test_a_correction_takes_the_answers_place_and_the_instructions_slice() -> None:
    material = Material.of(
        [("SORT  it", "x", "triage"), ("Sort it", "y", "")],
        [{"instruction": "Sort it", "slice": "imported"}],
    )
    system = {"role": "system", "content": "Sort it"}
    row_ = reviewed("wrong", correction="b", messages=[system, *reviewed()["messages"]])
    made = from_review(row_, material)
    assert isinstance(made, Candidate)
    assert (made.instruction, made.input, made.output, made.slice) == (
        "Sort it",
        "q",
        "b",
        "triage",
    )
    assert made.lineage == {"response_id": "chatcmpl-1", "review_id": 1, "version": 1}


def test_the_newest_verdict_on_an_answer_is_in_force() -> None:
    first = reviewed("wrong", correction="a")
    second = reviewed("wrong", correction="b", reviewer="ben", review_id=2)
    assert list(in_force([first, second])) == [second, first]  # both, for `curate` to compare
    unsafe = reviewed("unsafe", reviewer="ben", review_id=2)
    assert list(in_force([first, unsafe])) == [unsafe]
