"""Corrections by reviewers, before they are at rest."""

from __future__ import annotations

from dataclasses import replace

from feedback.review import Decision, Item
from feedback.scrub import Record, Scrubber


async def scrubbed_decision(scrubber: Scrubber, item: Item, decision: Decision) -> Decision:
    """Give the decision with surrogates for what its correction tells of people.

    What the reviewer took from the answer's record, comments included, is a surrogate already. A
    value that was in the original gets the surrogate that it has there. Raises `FinderAway`.
    """
    if not decision.correction:
        return decision
    row, answer = item.row, item.answer
    seen = [one["correction"] for one in (*item.feedback, *item.reviews)]
    seen += [[one["comment"], one["labels"]] for one in item.feedback]
    if answer is not None:
        seen += [answer["messages"], answer["choices"]]
    record = Record(row["tenant"], row["response_id"], row["alias"], decision.correction, seen)
    (correction,) = await scrubber.scrub([record])
    return replace(decision, correction=correction)
