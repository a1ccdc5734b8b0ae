from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.data import readers
from feedback.data.rows import BadRow, GivenRow, Mapped
from feedback.errors import Invalid

PLAIN = Mapped({}, {})
Rows = list[GivenRow | BadRow]


def read_jsonl(text: str | bytes, mapped: Mapped) -> Rows:
    content = text.encode() if isinstance(text, str) else text
    return list(readers.read_jsonl(io.BytesIO(content), mapped))


def read_csv(text: str | bytes, mapped: Mapped) -> Rows:
    content = text.encode() if isinstance(text, str) else text
    return list(readers.read_csv(io.BytesIO(content), mapped))


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
        (
            '{"instruction": "i", "input": "a", "output": "b", "slice": "%s"}' % ("x" * 201),
            "too_long",
            "'slice' has 201 characters",
        ),
        (r'{"instruction": "i", "input": "\ud800", "output": "b"}', "not_json", "line 1"),
        (b'{"instruction": "i", "input": "\xff", "output": "b"}', "not_utf8", "as UTF-8"),
        ("\u00a0{", "not_json", "line 1 is not JSON"),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(line: str | bytes, reason: str, message: str) -> None:
    (bad,) = read_jsonl(line, PLAIN)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason) == (1, reason)
    assert message in bad.message


def test_csv_takes_a_mapping_and_constants() -> None:
    text = 'question,"the answer",area\n"What, now?","line\none",x\n,missing,y\n'
    mapped = Mapped({"input": "question", "output": "the answer"}, {"instruction": "Answer."})
    good, bad = read_csv(text, mapped)
    assert good == GivenRow(2, "Answer.", "What, now?", "line\none")
    assert isinstance(bad, BadRow)
    assert "'question' is missing or empty" in bad.message


def test_csv_with_too_many_cells_says_so() -> None:
    (bad,) = read_csv("instruction,input,output\na,b,c,d\n", PLAIN)
    assert isinstance(bad, BadRow)
    assert bad.reason == "too_many_cells"


def test_a_bad_line_does_not_spoil_the_next() -> None:
    good = b'\xef\xbb\xbf{"instruction": "i", "input": "a\xe2\x80\xa8b", "output": "c"}\r\n'
    first, bad, last = read_jsonl(good + b"\xff\n" + good[3:], PLAIN)
    assert first == GivenRow(1, "i", "a\u2028b", "c")
    assert isinstance(bad, BadRow)
    assert last == GivenRow(3, "i", "a\u2028b", "c")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [(b"\xff", "not_utf8"), (b"\0", "not_text"), (b"x" * 200_000, "too_long")],
)
def test_a_bad_cell_is_named_and_reading_goes_on(cell: bytes, reason: str) -> None:
    text = b"instruction,input,output\r\n\r\ni,a," + cell + b"\r\ni,b,c\r\n"
    bad, good = read_csv(text, PLAIN)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason) == (3, reason)
    assert "'output'" in bad.message
    assert good == GivenRow(4, "i", "b", "c")


def test_nothing_is_read_after_a_line_that_is_no_csv() -> None:
    good, bad = read_csv('instruction,input,output\ni,a,b\ni,"c,d\ni,e,f\n', PLAIN)
    assert isinstance(good, GivenRow)
    assert isinstance(bad, BadRow)
    assert (bad.reason, "nothing after it was read" in bad.message) == ("not_csv", True)


@pytest.mark.parametrize(
    ("text", "mapped", "message"),
    [
        (b"", PLAIN, "The file is empty"),
        (b"a;b\n1;2\n", PLAIN, "no column 'instruction' for 'instruction'; .* names: a;b"),
        (b"instruction,input,output\n", Mapped({"slice": "area"}, {}), "no column 'area'"),
        (b"instruction,input,output,input\n", PLAIN, "Two columns are called 'input'"),
        ("instruction,input\n".encode("utf-16"), PLAIN, "Line 1 is not UTF-8"),
    ],
)
def test_columns_that_are_not_there(text: bytes, mapped: Mapped, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_csv(text, mapped)


def test_columns_that_nobody_maps_may_hold_anything() -> None:
    text = b"instruction,input,output,note,note\ni,a,b,\xff,\0\n"
    assert read_csv(text, PLAIN) == [GivenRow(2, "i", "a", "b")]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers(content: bytes) -> None:
    assert all(isinstance(row, GivenRow | BadRow) for row in read_jsonl(content, PLAIN))
    with contextlib.suppress(Invalid):
        read_csv(content, PLAIN)
    rows = read_csv(b"instruction,input,output\n" + content, PLAIN)
    for row in rows:
        assert row.message.encode() if isinstance(row, BadRow) else row.digest
