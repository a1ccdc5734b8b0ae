from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import EvaluationInvalid
from trainer.evaluation import Answer, Evaluation, dump_evaluation, parse_evaluation
from trainer.metrics import exact_match, f1, summary


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        (" 14 euros.\n", "14 euros.", True),
        ("14 Euros.", "14 euros.", False),
        ('{"b": null, "a": 1}', '{"a":1,"b":null}', True),
        ('{"a": 1.0}', '{"a":1}', True),
        ('{"a": true}', '{"a":1}', False),
        ('{"a": [true]}', '{"a":[1]}', False),
        ('{"a": "1"}', '{"a":1}', False),
        ('{"a": 1, "b": 2}', '{"a":1}', False),
        ('{"a": 1} indeed', '{"a":1}', False),
        ('{"a": {"x": 1, "y": [2]}}', '{"a":{"y":[2],"x":1}}', True),
        ('{"a": {"y": [3, 2]}}', '{"a":{"y":[2,3]}}', False),
        ('{"a": NaN}', '{"a":1}', False),
        ('{"a":' + "[" * 100_000, '{"a":1}', False),
        ("{not json}", " {not json} ", True),
        ("[1, 2]", "[1,2]", False),
        ("", "x", False),
    ],
)
def test_exact_match(said: str, expected: str, same: bool) -> None:
    assert exact_match(said, expected) is same


@pytest.mark.parametrize(
    ("said", "expected", "score"),
    [
        ("The Anchor costs 14 euros", "Anchor costs 14 euros a month.", 8 / 9),
        ("14", "fourteen", 0),
        ("", "fourteen", 0),
        ("yes yes", "yes", 2 / 3),
        ("“Yes”", "yes!", 1),
        ("?", "?", 1),
        ("!", "?", 0),
        ('{"a":1,"b":2}', '{"a":1,"b":3}', 0.5),
        ('{"a":1}', '{"a":1,"b":3}', 2 / 3),
        ("a 1 b 3", '{"a":1,"b":3}', 0),
        ("{}", "{}", 1),
        ('{"a":1}', "{}", 0),
    ],
)
def test_f1(said: str, expected: str, score: float) -> None:
    assert f1(said, expected) == pytest.approx(score)


@given(st.text(), st.text())
def test_f1_is_a_share_and_whole_where_the_match_is(said: str, expected: str) -> None:
    assert 0 <= f1(said, expected) <= 1
    assert f1(said, said) == 1
    if exact_match(said, expected):
        assert f1(said, expected) == 1


def test_summary_is_by_slice() -> None:
    answers = (
        Answer("1", "triage", "?", '{"a":1}', '{"a": 1}'),
        Answer("2", "triage", "?", '{"a":1,"b":1}', '{"a":1,"b":2}'),
        Answer("3", "facts", "?", "14", "15"),
    )

    found = summary(Evaluation("base", "d", answers))

    assert found == {
        "facts": {"n": 1, "exact_match": 0, "f1": 0},
        "triage": {"n": 2, "exact_match": 0.5, "f1": 0.75},
    }
    assert list(found) == ["facts", "triage"]


def test_an_evaluation_survives_json_whatever_the_order_of_its_items() -> None:
    answers = tuple(Answer(str(i), "s", "p", "e", "said") for i in range(5))
    evaluation = Evaluation("support@3", "d" * 64, answers)

    dumped = dump_evaluation(Evaluation("support@3", "d" * 64, answers[::-1]))

    assert dumped == dump_evaluation(evaluation)
    assert parse_evaluation(dumped) == evaluation


ANSWER = {"item_id": "1", "slice": "", "prompt": "p", "expected": "e", "said": ""}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"version": "base", "golden_digest": "d"}, "list of answers"),
        ({"version": "base", "golden_digest": "d", "answers": [1]}, r"answers\[0\] is not"),
        (
            {"version": "base", "golden_digest": "d", "answers": [{**ANSWER, "said": None}]},
            r"answers\[0\]: not a string: said",
        ),
        ({"version": "base", "golden_digest": "d", "answers": [ANSWER, ANSWER]}, "more than once"),
        ({"version": "", "golden_digest": "d", "answers": [ANSWER]}, "needs a version"),
        ({"version": "base", "answers": [ANSWER]}, "needs a golden_digest"),
    ],
)
def test_what_is_no_evaluation_is_refused(value: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationInvalid, match=message):
        parse_evaluation(value)
