"""Logprobs go out with their text, or not at all."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.answers import Token
from gateway.serving.tokens import TokenGate
from guardrails.types import Piece


def tokens(*texts: str) -> list[Token]:
    return [Token(text, -0.1, list(text.encode())) for text in texts]


def names(released: list[Token]) -> list[str]:
    return [token.token for token in released]


def test_tokens_wait_for_their_text() -> None:
    gate = TokenGate()
    gate.arrived("Hello wor", tokens("Hello", " wor"))
    assert gate.release([]) == []
    assert names(gate.release([Piece("Hello ", 0, 6)])) == ["Hello"]
    gate.arrived("ld", tokens("ld"))
    assert names(gate.release([Piece("world", 6, 11)], finished=True)) == [" wor", "ld"]


def test_tokens_of_a_redacted_span_never_go_out() -> None:
    gate = TokenGate()
    gate.arrived("Mail a@b.c now", tokens("Mail", " a@", "b.c", " now"))
    pieces = [
        Piece("Mail ", 0, 5),
        Piece("[EMAIL_ADDRESS]", 5, 10, redacted=True),
        Piece(" now", 10, 14),
    ]
    assert names(gate.release(pieces, finished=True)) == ["Mail", " now"]


def test_tokens_that_run_ahead_of_the_text_stay_back() -> None:
    """A worker holds text back for a stop sequence, but sends the tokens at once."""
    gate = TokenGate()
    gate.arrived("", tokens("SECRET"))
    assert gate.release([]) == []
    gate.arrived("SECRET", [])
    assert gate.release([]) == []
    assert names(gate.release([Piece("SECRET", 0, 6)])) == ["SECRET"]


def test_end_marks_and_cut_stop_sequences_are_dropped() -> None:
    gate = TokenGate()
    gate.arrived("Done.", tokens("Done", ".", "<|im_end|>"))
    assert names(gate.release([Piece("Done.", 0, 5)], finished=True)) == ["Done", "."]


@given(st.text(min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=8), st.data())
def test_never_more_tokens_than_released_text(
    text: str, cuts: list[int], data: st.DataObject
) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[a:b] for a, b in itertools.pairwise(bounds)]
    gate = TokenGate()
    gate.arrived(text, tokens(*parts))
    stop = data.draw(st.integers(0, len(text)))
    first = names(gate.release([Piece(text[:stop], 0, stop)]))
    assert text[:stop].startswith("".join(first))
    rest = names(gate.release([Piece(text[stop:], stop, len(text))], finished=True))
    assert "".join(first + rest) == text
