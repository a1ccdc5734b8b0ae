"""The two corrections to the word-based toxicity classifier."""

from __future__ import annotations

import pytest

from guardrails.models.hostility import calmed, is_hostile
from guardrails.models.reading import readings, worst
from guardrails.types import Passage


@pytest.mark.parametrize(
    "text",
    [
        "I am going to break your fingers.",
        "You are a spineless clown.",
        "You're the dumbest, most pathetic excuse.",
        "We know where you sleep.",
        "Just go and drown yourself.",
        "You useless, filthy rat.",
    ],
)
def test_threats_and_insults_by_their_shape(text: str) -> None:
    assert is_hostile(text)


@pytest.mark.parametrize(
    "text",
    [
        "I will shoot you an email.",
        "We will beat your current price.",
        "I will kill your session now.",
        "If you are a rat owner, this is for you.",
        "The update will not hurt you.",
        "We will find you a better room.",
        "You can hit your quota by Friday.",
        "If you feel like you want to harm yourself, please call a helpline.",
    ],
)
def test_support_talk_is_no_threat(text: str) -> None:
    assert not is_hostile(text)


def test_mild_words_about_nobody_are_dropped() -> None:
    assert "Damn" not in calmed("Damn, this cake is good!")
    assert calmed("Damn you!") == "Damn you!"


def test_a_unit_is_read_whole_and_in_parts() -> None:
    assert readings(Passage("One. two\nthree ")) == ["One. two\nthree", "One.", "two", "three"]
    assert readings(Passage("One. ", "Zero. ")) == ["One."]
    assert readings(Passage("over you.", "I run all ")) == ["over you.", "I run all over you."]
    assert worst([0.1, 0.9, 0.2], [2, 1]) == [0.9, 0.2]
