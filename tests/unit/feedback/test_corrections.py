"""What reviewers write: surrogates that they took over stay, real values get the same ones."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine

from feedback.corrections import scrubbed_decision
from feedback.errors import FinderAway
from feedback.opening import scrubbed_captures, scrubbed_feedback
from feedback.review import Decision, Item, ReviewDesk
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore

from .conftest import EMAIL, Clock, EmailFinder, a_capture, some_feedback


@pytest.fixture
async def item(engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber) -> Item:
    """An answer to Maria Keller, flagged with a comment that names another address."""
    store.keep(await scrubbed_captures(scrubber, [a_capture()]))
    said = some_feedback(comment="Better ask ann@here.test", labels=("wrong",))
    store.take(await scrubbed_feedback(scrubber, [said]))
    (item,) = ReviewDesk(engine, clock=clock).queue("default", {})
    return item


async def corrected(scrubber: Scrubber, item: Item, text: str) -> str:
    decision = await scrubbed_decision(scrubber, item, Decision("wrong", text))
    return str(decision.correction)


async def test_what_the_reviewer_knows_gets_the_surrogate_of_the_record(
    scrubber: Scrubber, item: Item
) -> None:
    assert item.answer is not None
    asked = item.answer["messages"][0]["content"]
    match = re.match(r"I am (\w+) (\w+), (\S+)$", asked)
    assert match is not None
    first, last, address = match.groups()
    assert {first, last, address}.isdisjoint({"Maria", "Keller", "m.k@corp.test"})
    text = "Dear Ms. Keller, it goes to m.k@corp.test. Hello Maria, that is all."
    wanted = f"Dear Ms. {last}, it goes to {address}. Hello {first}, that is all."
    assert await corrected(scrubber, item, text) == wanted


async def test_what_the_reviewer_took_over_stays(scrubber: Scrubber, item: Item) -> None:
    assert item.answer is not None
    (address,) = EMAIL.findall(item.answer["messages"][0]["content"])
    (other,) = EMAIL.findall(item.feedback[0]["comment"])
    assert other != "ann@here.test"
    text = f"Write to {address} or {other}."
    assert await corrected(scrubber, item, text) == text


async def test_a_callers_correction_says_the_same(scrubber: Scrubber, item: Item) -> None:
    text = "Dear Ms. Keller, it goes to m.k@corp.test."
    feedback = some_feedback(correction=text, comment=text)
    (clean,) = await scrubbed_feedback(scrubber, [feedback])
    assert clean.correction == clean.comment == await corrected(scrubber, item, text)


async def test_nothing_is_kept_while_nobody_can_look(
    scrubber: Scrubber, finder: EmailFinder, item: Item
) -> None:
    finder.error = FinderAway()
    with pytest.raises(FinderAway):
        await corrected(scrubber, item, "Anything.")
    nothing = Decision("correct")
    assert await scrubbed_decision(scrubber, item, nothing) is nothing
