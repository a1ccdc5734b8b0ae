from __future__ import annotations

import pytest

from feedback.data.rows import BadRow, GivenRow, Mapped, read_csv, read_jsonl

PLAIN = Mapped({}, {})


def test_json_lines_become_rows() -> None:
    text = '{"instruction": "Sort.", "input": "a", "output": "b", "slice": "s", "more": 1}\n\n'
    assert list(read_jsonl(text, PLAIN)) == [GivenRow(1, "Sort.", "a", "b", "s")]


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ('{"instruction": "i", "input": "a"}', "no_output", "'output' is missing or empty"),
        ('{"instruction": "i", "input": " ", "output": "b"}', "no_input", "line 1: 'input'"),
        ('{"instruction": 5, "input": "a", "output": "b"}', "not_text", "'instruction' is not a"),
        ('{"input": "a"', "not_json", "line 1 is not JSON"),
        ("[1]", "not_json", "not a JSON object"),
        ("[" * 5000, "not_json", "line 1 is not JSON"),
        (r'{"instruction": "i", "input": "a\u0000", "output": "b"}', "not_text", "NUL"),
        (
            '{"instruction": "i", "input": "%s", "output": "b"}' % ("x" * 100_001),
            "too_long",
            "100000",
        ),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(line: str, reason: str, message: str) -> None:
    (bad,) = read_jsonl(line, PLAIN)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason) == (1, reason)
    assert message in bad.message


def test_csv_takes_a_mapping_and_constants() -> None:
    text = 'question,"the answer",area\n"What, now?","line\none",x\n,missing,y\n'
    mapped = Mapped({"input": "question", "output": "the answer"}, {"instruction": "Answer."})
    good, bad = read_csv(text, mapped)
    assert good == GivenRow(3, "Answer.", "What, now?", "line\none")
    assert isinstance(bad, BadRow)
    assert "'question' is missing or empty" in bad.message


def test_csv_with_too_many_cells_says_so() -> None:
    (bad,) = read_csv("instruction,input,output\na,b,c,d\n", PLAIN)
    assert isinstance(bad, BadRow)
    assert bad.reason == "too_many_cells"
