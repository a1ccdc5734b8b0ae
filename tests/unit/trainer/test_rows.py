from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.errors import NoRows, RowInvalid
from trainer.rows import Row, dump_rows, parse_row, read_rows, to_example, to_messages, to_prompt

ROW = Row(id="a", instruction="Sort.", input="It is down.", output="{}", slice="triage")


def test_the_instruction_is_the_system_message() -> None:
    assert to_messages(ROW) == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "It is down."},
        {"role": "assistant", "content": "{}"},
    ]


def test_prompt_and_completion_make_the_conversation() -> None:
    example = to_example(ROW)

    assert example["prompt"] == to_prompt(ROW)
    assert [*example["prompt"], *example["completion"]] == to_messages(ROW)


def test_rows_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(dump_rows([ROW, ROW]) + "\n", encoding="utf-8")

    assert read_rows(path) == [ROW, ROW]


def test_a_row_that_was_erased_ends_the_training() -> None:
    with pytest.raises(RowInvalid, match="was erased: train on a new data set"):
        parse_row({"id": "a", "erased": True, "slice": "triage", "origin": "import"})


def test_unknown_keys_are_ignored() -> None:
    value = {"id": "a", "instruction": "b", "input": "c", "output": "d", "reviewer": 7}

    assert parse_row(value) == Row(id="a", instruction="b", input="c", output="d")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "line 2"),
        ("[]", "not a JSON object"),
        (json.dumps({"id": "a", "instruction": "b", "input": "c"}), "missing or empty: output"),
        (json.dumps({"id": 1, "instruction": "b", "input": "c", "output": "d"}), "not a string"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, part: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(dump_rows([ROW]) + line + "\n", encoding="utf-8")

    with pytest.raises(RowInvalid, match=part) as caught:
        read_rows(path)
    assert "rows.jsonl, line 2" in str(caught.value)


def test_an_optional_null_is_as_if_it_were_not_there() -> None:
    value = {"id": "a", "instruction": "b", "input": "c", "output": "d", "template_id": None}
    assert parse_row(value) == Row("a", "b", "c", "d")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n", encoding="utf-8")

    with pytest.raises(NoRows, match=r"rows\.jsonl holds no rows"):
        read_rows(path)
