"""How much of a text's end has to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.catalog import CATALOG, number_run
from guardrails.phrases import PhraseMatcher
from guardrails.types import Passage


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("All is well. ", ""),
        ("It costs 500. ", "500. "),
        ("Call +1 (555). ", "+1 (555). "),
        ("No digits here (really). ", ""),
        ("Room 5 is free. ", ""),
    ],
)
def test_only_a_number_at_the_end_of_a_sentence_waits(text: str, held: str) -> None:
    assert text[len(text) - number_run(text) :] == held


def test_within_a_sentence_the_longest_span_or_word_waits() -> None:
    spec = CATALOG["personal_data"]
    assert spec.tail("word " * 100, sentence_over=False) == spec.max_span
    assert spec.tail("x " + "y" * 200, sentence_over=False) == 200
    assert CATALOG["toxicity"].tail("word " * 100, sentence_over=False) == 0


PHRASES = ["go. Home now", "so it is", "A+", "now. Then"]


@given(st.lists(st.sampled_from(["go", ".", " ", "Home", "now", "so it is", "A+", "Then", "x"])))
def test_a_phrase_over_the_end_begins_in_what_is_held(parts: list[str]) -> None:
    matcher, text = PhraseMatcher(PHRASES), "".join(parts)
    for at in range(len(text) + 1):
        if at and not text[at - 1].isspace():
            continue  # a sentence's end comes with white space
        held = min(matcher.hold(text[:at][-matcher.max_span :]), matcher.max_span)
        for found in matcher.find(Passage(text)):
            if found.start < at < found.end:
                assert found.start >= at - held
