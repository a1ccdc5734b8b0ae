"""The finder: asks the guards once, in pieces, and honours what a policy exempts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from feedback.errors import FinderAway
from feedback.scrub import Span
from gateway.scrubbing import GuardFinder
from guardrails.errors import GuardUnavailable
from guardrails.policy_book import PolicyBook
from guardrails.types import Finding, Passage

PERSON = r"Order \w+-\d+|JSON|[A-Z]\w+ [A-Z]\w+"
KINDS = {
    "personal_data": (("PHONE_NUMBER", r"\d{3}-\d{4}"), ("EMAIL_ADDRESS", r"\w+@\w+\.\w+")),
    "names": (("PERSON", PERSON), ("LOCATION", "Paris")),
}


class Judge:
    """Finds by patterns, as the guard process does: relative to the text, from the context on."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], list[str]]] = []
        self.down = False

    async def judge(
        self, guards: Sequence[str], passages: Sequence[Passage]
    ) -> list[list[Finding]]:
        if self.down:
            raise GuardUnavailable
        self.asked.append((tuple(guards), [passage.text for passage in passages]))
        return [
            [
                Finding(guard, label, found.start() - shift, found.end() - shift, 0.5)
                for guard in guards
                for label, pattern in KINDS[guard]
                for found in re.finditer(pattern, passage.context + passage.text)
                if found.end() > (shift := len(passage.context))
            ]
            for passage in passages
        ]


@pytest.fixture
def judge() -> Judge:
    return Judge()


def finder(judge: Judge, *guards: str, policies: Path | None = None) -> GuardFinder:
    return GuardFinder(judge, dict.fromkeys(guards, "1"), PolicyBook(policies))


async def test_personal_data(judge: Judge) -> None:
    found = await finder(judge, "personal_data").find(["a@b.de", "x", "a@b.de"], "support")
    assert found == [[Span("EMAIL_ADDRESS", 0, 6)], [], [Span("EMAIL_ADDRESS", 0, 6)]]
    assert judge.asked == [(("personal_data",), ["a@b.de", "x"])]


async def test_people_where_the_guard_is_loaded(judge: Judge) -> None:
    with_names = finder(judge, "personal_data", "names")
    (found,) = await with_names.find(["Maria Keller, JSON, Order AC-1, Paris"], "support")
    assert found == [Span("PERSON", 0, 12)]
    assert with_names.version == "personal_data 1, names 1"


async def test_texts_that_come_again_are_not_asked_again(judge: Judge) -> None:
    one = finder(judge, "personal_data")
    for _ in range(3):
        assert await one.find(["be kind", "a@b.de"], "support") == [
            [],
            [Span("EMAIL_ADDRESS", 0, 6)],
        ]
    assert len(judge.asked) == 1


async def test_long_texts_are_judged_in_pieces(judge: Judge) -> None:
    text = "x" * 7995 + " a@b.de " + "y" * 9000 + " 555-1234"
    (found,) = await finder(judge, "personal_data").find([text], "support")
    whole = {span for span in found if text[span.start : span.end] in ("a@b.de", "555-1234")}
    assert {text[span.start : span.end] for span in whole} == {"a@b.de", "555-1234"}
    assert all(len(piece) <= 8000 for _, pieces in judge.asked for piece in pieces)


async def test_a_policy_exempts(judge: Judge, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "aliases:\n  shop:\n    guards:\n"
        "      - {guard: personal_data, stage: output, action: redact, exempt: ['ORD \\d+-\\d+']}\n"
    )
    one = finder(judge, "personal_data", policies=path)
    text = "ORD 555-1234"
    assert await one.find([text], "shop") == [[]]
    assert await one.find([text], "other") == [[Span("PHONE_NUMBER", 4, 12)]]


async def test_guards_that_are_away(judge: Judge) -> None:
    judge.down = True
    with pytest.raises(FinderAway):
        await finder(judge, "personal_data").find(["a"], "support")
