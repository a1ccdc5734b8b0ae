from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import GateError, GatePolicyInvalid
from trainer.evaluation import Answer, Evaluation
from trainer.gate.judge import judge
from trainer.gate.policy import GatePolicy, SlicePolicy, load_policy

TRIAGE = frozenset({"triage"})
QUICK = GatePolicy(resamples=1000)


def evaluation(
    triage: list[bool], facts: list[bool] | None = None, version: str = "support@2"
) -> Evaluation:
    answers = [
        Answer(f"{slice_}-{n:03d}", slice_, f"ask {n}", f"yes {n}", f"yes {n}" if right else "no")
        for slice_, values in (("triage", triage), ("facts", facts or []))
        for n, right in enumerate(values)
    ]
    return Evaluation(version, "digest", tuple(answers))


def some(right: int, n: int) -> list[bool]:
    return [place < right for place in range(n)]


def test_a_better_candidate_passes_and_says_by_how_much() -> None:
    report = judge(
        evaluation(some(100, 200), some(5, 60)),
        evaluation(some(40, 200), some(5, 60), "support@1"),
        QUICK,
        TRIAGE,
    )
    assert report.verdict == "PASS"
    triage = report.slices["triage"]
    assert (triage.role, triage.gains, triage.losses) == ("superiority", 60, 0)
    assert triage.difference == pytest.approx(0.3)
    assert 0.2 < triage.low < 0.3 < triage.high < 0.4
    assert report.slices["facts"].role == "non-inferiority"
    assert len(report.fixed) == QUICK.examples
    assert report.broken == ()


def test_an_equal_candidate_is_not_better_and_the_reason_says_what_would_have_shown() -> None:
    same = evaluation(some(100, 200), some(5, 60))
    report = judge(same, same, QUICK, TRIAGE)
    assert report.verdict == "INCONCLUSIVE"
    assert report.slices["facts"].verdict == "PASS"
    assert "points would have shown" in report.slices["triage"].reason
    assert report.slices["triage"].detectable is not None


def test_a_candidate_trained_on_shuffled_answers_is_stopped() -> None:
    report = judge(evaluation(some(2, 200)), evaluation(some(110, 200)), QUICK, TRIAGE)
    assert report.verdict == "FAIL"
    assert "worse" in report.reasons[0]
    assert report.broken[0].after == "no"


def test_a_gain_here_does_not_pay_for_a_loss_there() -> None:
    new = evaluation(some(150, 200), some(10, 60))
    old = evaluation(some(50, 200), some(50, 60))
    report = judge(new, old, QUICK, TRIAGE)
    assert (report.verdict, report.slices["triage"].verdict) == ("FAIL", "PASS")


def test_a_small_slice_can_rule_nothing_out() -> None:
    report = judge(
        evaluation(some(50, 60), some(0, 14)), evaluation(some(0, 60), some(0, 14)), QUICK, TRIAGE
    )
    assert report.verdict == "INCONCLUSIVE"
    assert "fewer than 20 items" in report.reasons[0]


def test_a_small_slice_can_still_show_a_loss() -> None:
    new, old = evaluation(some(50, 60), some(0, 14)), evaluation(some(0, 60), some(14, 14))
    report = judge(new, old, QUICK, TRIAGE)
    assert (report.verdict, report.slices["facts"].verdict) == ("FAIL", "FAIL")


def test_the_examples_are_of_every_slice() -> None:
    new, old = evaluation(some(0, 60), some(0, 30)), evaluation(some(60, 60), some(30, 30))
    report = judge(new, old, QUICK, TRIAGE)
    assert [change.slice for change in report.broken] == ["facts", "triage"] * 5


def test_without_a_slice_to_improve_nothing_passes() -> None:
    report = judge(evaluation(some(50, 60)), evaluation(some(50, 60)), QUICK, frozenset())
    assert report.verdict == "INCONCLUSIVE"
    assert "no slice of the golden set" in report.reasons[0]


def test_the_policy_may_name_the_slices() -> None:
    policy = QUICK.model_copy(
        update={
            "slices": {"facts": SlicePolicy(must_improve=True), "triage": SlicePolicy(margin=0.3)}
        }
    )
    report = judge(
        evaluation(some(30, 60), some(50, 60)),
        evaluation(some(30, 60), some(10, 60)),
        policy,
        frozenset(),
    )
    assert report.verdict == "PASS"
    assert report.slices["triage"].margin == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: Evaluation(e.version, "other", e.answers), "different golden sets"),
        (lambda e: Evaluation(e.version, e.golden_digest, e.answers[1:]), "only one of both"),
        (
            lambda e: Evaluation(e.version, e.golden_digest, (*e.answers, e.answers[0])),
            "answered twice",
        ),
        (
            lambda e: Evaluation(
                e.version, e.golden_digest, (replace(e.answers[0], expected="x"), *e.answers[1:])
            ),
            "not the same in both",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(change: object, message: str) -> None:
    assert callable(change)
    one = evaluation(some(5, 30))
    with pytest.raises(GateError, match=message):
        judge(one, change(one), QUICK, TRIAGE)


RIGHT = st.lists(st.booleans(), min_size=25, max_size=40)


@settings(max_examples=25)
@given(RIGHT, st.integers())
def test_equals_never_pass_and_the_order_of_the_items_does_not_matter(
    right: list[bool], seed: int
) -> None:
    one = evaluation(right, right)
    assert judge(one, one, QUICK, TRIAGE).verdict != "PASS"
    other = evaluation([not value for value in right], right)
    mixed = list(other.answers)
    random.Random(seed).shuffle(mixed)
    turned = Evaluation(other.version, other.golden_digest, tuple(mixed))
    assert judge(turned, one, QUICK, TRIAGE) == judge(other, one, QUICK, TRIAGE)


@settings(max_examples=20)
@given(RIGHT)
def test_more_right_answers_never_make_a_verdict_worse(right: list[bool]) -> None:
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    old = evaluation([False, True] * 20)
    new = [*right, *[False] * (40 - len(right))]
    better = list(new)
    if False in better:
        better[better.index(False)] = True
    before = judge(evaluation(new), old, QUICK, TRIAGE).verdict
    after = judge(evaluation(better), old, QUICK, TRIAGE).verdict
    assert order.index(after) >= order.index(before)


def test_texts_of_models_cannot_break_the_report() -> None:
    answers = evaluation(some(0, 30)).answers
    evil = (
        "| a |\n# title\n<img src=x onerror=alert(1)> [x](http://evil) www.evil.test \u202egpj `"
        + "y" * 500
    )
    old = Evaluation(
        "support@1",
        "digest",
        tuple(Answer(a.item_id, a.slice, a.prompt, a.expected, evil) for a in answers),
    )
    text = judge(evaluation(some(30, 30)), old, QUICK, TRIAGE).to_markdown()
    assert "<img" not in text
    assert "[x](" not in text
    assert not any(sign in text for sign in ("://", "www.", "\u202e"))
    rows = [line for line in text.splitlines() if line.startswith("| triage-")]
    assert rows
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_policies_by_alias_and_mistakes_by_name(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("default: {margin: 0.05}\naliases: {legal: {alpha: 0.01}}\n", encoding="utf-8")
    policies = load_policy(path)
    assert policies.for_alias("support").margin == 0.05
    legal = policies.for_alias("legal")
    assert (legal.alpha, legal.margin) == (0.01, 0.05)  # what it does not set is the default's
    assert load_policy(None).for_alias("support") == GatePolicy()
    for text, message in (
        ("default: {margin: 2}", "default.margin"),
        ("default: {margin: yes}", "default.margin"),
        ("defualt: {}", "defualt"),
        ("a: [", "gate.yaml"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(GatePolicyInvalid, match=message):
            load_policy(path)
