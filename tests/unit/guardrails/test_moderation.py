"""Moderation in OpenAI's shape."""

from __future__ import annotations

from guardrails.moderation import CATEGORIES, moderate
from guardrails.testing import FakeJudge

SCRIPT = {
    "idiot": ("toxicity", "toxicity", 0.9),
    "kill": ("toxicity", "threat", 0.95),
    "hm": ("toxicity", "identity_attack", 0.3),
}


async def test_the_worst_sentence_counts_and_one_question_is_enough() -> None:
    judge = FakeJudge(SCRIPT)
    calm, rude, threat, doubt = await moderate(
        judge, ["All is well.", "Fine. You idiot! Bye.", "I kill you, idiot.", "Well, hm."]
    )
    assert len(judge.calls) == 1
    assert not calm.flagged
    assert set(calm.category_scores.values()) == {0.0}
    assert rude.flagged
    assert rude.categories["harassment"]
    assert not rude.categories["violence"]
    assert threat.categories["harassment/threatening"]
    assert threat.categories["violence"]
    assert doubt.category_scores["hate"] == 0.3
    assert not doubt.flagged


async def test_the_shape_is_openais() -> None:
    [verdict] = await moderate(FakeJudge(), [""])
    assert tuple(verdict.categories) == tuple(verdict.category_scores) == CATEGORIES
    assert set(verdict.category_applied_input_types) == set(CATEGORIES)
