"""Where sentences end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from guardrails.segment import borders


def cut(text: str, cap: int = 600) -> list[str]:
    ends = [end for end, _ in borders(text, 0, 0, cap)[0]]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("One. Two.", ["One. ", "Two."]),
        ("One.", ["One."]),
        ("One. ", ["One. "]),
        ("It costs 3.14 euro, e.g. today.", ["It costs 3.14 euro, e.g. today."]),
        ('He said "No." Then he left.', ['He said "No." ', "Then he left."]),
        ("What?! Yes… 2 more.", ["What?! ", "Yes… ", "2 more."]),
        ("A title\n\nand text", ["A title\n\n", "and text"]),
        ("- one\n- two", ["- one\n- two"]),
        ("One\r\n \r\nTwo", ["One\r\n \r\n", "Two"]),
        ("今日は。元気\uff1fはい", ["今日は。", "元気\uff1f", "はい"]),
        ("", [""]),
    ],
)
def test_units(text: str, units: list[str]) -> None:
    assert cut(text) == units


def test_a_long_unit_is_split_at_white_space_or_else_at_the_cap() -> None:
    assert cut("aaa bbb ccc ddd", cap=8) == ["aaa bbb ", "ccc ddd"]
    assert cut("a" * 20, cap=8) == ["a" * 8, "a" * 8, "a" * 4]
    assert cut("a" * 8, cap=8) == ["a" * 8]


def test_a_border_is_not_decided_before_the_next_character_is_known() -> None:
    for text in ("One", "One.", "One. ", 'One."', "One.\n\n"):
        assert borders(text, 0, 0, 600)[0] == []
    assert borders("One. T", 0, 0, 600) == ([(5, True)], 6)


def test_a_text_that_grows_is_cut_at_the_same_places() -> None:
    text = "One. Two?! " + "long " * 9 + "He said 3.5 (or so).  Then\n\nhe left."
    ends: list[tuple[int, bool]] = []
    scan = 0
    for size in range(len(text) + 1):
        found, scan = borders(text[:size], ends[-1][0] if ends else 0, scan, 24)
        ends += found
    assert ends == borders(text, 0, 0, 24)[0]


def test_endless_white_space_is_no_trouble() -> None:
    text = "a." + "\n" * 5_000 + "b"
    assert "".join(cut(text)) == text
