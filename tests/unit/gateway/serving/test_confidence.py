"""Confidence is made of the tokens that carry the answer."""

import pytest

from feedback.types import Confidence
from gateway.serving.answers import BareToken
from gateway.serving.confidence import score as score_tokens


def score(tokens: list[tuple[str, float]]) -> Confidence | None:
    return score_tokens([BareToken(token, logprob) for token, logprob in tokens])


def test_no_tokens_give_no_score() -> None:
    assert score([]) is None


def test_plain_text_counts_every_token() -> None:
    confidence = score([("The", -0.1), (" price", -0.2), (" is", -0.3), (" 9", -2.0)])
    assert confidence is not None
    assert confidence.length == 4
    assert confidence.mean == pytest.approx(-0.65)
    assert confidence.minimum == -2.0
    assert confidence.sequence == pytest.approx(-2.6)


def test_json_braces_and_keys_are_left_out() -> None:
    tokens = [
        ('{"', -9.0),
        ("priority", -9.0),
        ('":', -9.0),
        ('"', -9.0),
        ("high", -0.5),
        ('","', -9.0),
        ("order", -9.0),
        ('_id":', -9.0),
        ("null", -1.5),
        ("}", -9.0),
    ]
    confidence = score(tokens)
    assert confidence is not None
    assert confidence.length == 2
    assert confidence.mean == pytest.approx(-1.0)


def test_values_inside_arrays_and_escaped_quotes_count() -> None:
    confidence = score([('{"a":["', -9.0), ('x\\"y', -1.0), ('"', -9.0), ("]}", -9.0)])
    assert confidence is not None
    assert (confidence.length, confidence.mean) == (1, -1.0)


def test_json_without_values_counts_all() -> None:
    confidence = score([("{", -1.0), ("}", -3.0)])
    assert confidence is not None
    assert confidence.length == 2
