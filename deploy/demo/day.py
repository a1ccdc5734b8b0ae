"""Day 2: the alias answers new tickets, and what was doubtful or flagged is corrected."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from deploy.demo.api import Gateway, Said
from trainer.metrics import exact_match
from trainer.rows import Row

FLAGGED_OF = (3, 5)
"""How many of the wrong answers their users flag: three of five."""
_SETTLE_S = 60.0

Answered = list[tuple[Said, bool]]
"""Answers, with whether each was right."""


def answer_all(
    gateway: Gateway, alias: str, rows: Sequence[Row], told: Callable[[int], None]
) -> Answered:
    """Let the alias answer all tickets. Raises RuntimeError where a call failed."""
    answered = gateway.answers(alias, rows, told)
    if failed := sum(said.id is None for said in answered):
        raise RuntimeError(f"{failed} of {len(answered)} calls failed")
    return [(said, exact_match(said.text, said.row.output)) for said in answered]


def flag_some(gateway: Gateway, answered: Answered) -> int:
    """Flag some of the wrong answers, as their users would; gives how many."""
    share, of = FLAGGED_OF
    wrong = [said for said, right in answered if not right]
    flagged = [said for number, said in enumerate(wrong) if number % of < share]
    for said in flagged:
        gateway.flag(str(said.id))
    return len(flagged)


def correct_all(gateway: Gateway, alias: str, answered: Answered, flagged: int) -> dict[str, int]:
    """Work through the review queue with the tickets' verified answers.

    Gives how many items there were by reason, and how many were corrected.
    """
    known = {said.id: (said, right) for said, right in answered}
    counts = {"flagged": 0, "doubtful": 0, "audit": 0, "guarded": 0, "corrected": 0, "confirmed": 0}
    deadline = time.monotonic() + _SETTLE_S
    while True:
        items = _open_items(gateway, alias, known)
        for item in items:
            said, right = known[item["response_id"]]
            gateway.review("POST", f"/{item['id']}/claim", json={})
            body = (
                {"verdict": "correct"}
                if right
                else {"verdict": "wrong", "correction": said.row.output}
            )
            gateway.review("POST", f"/{item['id']}", json=body)
            counts[item["reason"]] += 1
            counts["confirmed" if right else "corrected"] += 1
        # The last answers and flags reach the queue a moment after they were given.
        if not items and (counts["flagged"] >= flagged or time.monotonic() > deadline):
            return counts
        if not items:
            time.sleep(1)


def _open_items(
    gateway: Gateway, alias: str, known: dict[str | None, tuple[Said, bool]]
) -> list[dict[str, Any]]:
    """Give the open items among the day's answers; live traffic's are left to the reader."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        query = {
            "alias": alias,
            "status": "open",
            "limit": "100",
            **({"after": after} if after else {}),
        }
        page = gateway.review("GET", "", params=query)
        found += [item for item in page["data"] if item["response_id"] in known]
        if not page["has_more"]:
            return found
        after = str(page["data"][-1]["id"])


def auroc(answered: Answered) -> float:
    """Give the probability that a right answer had the higher confidence than a wrong one.

    Ties count a half (Hanley and McNeil 1982). 0.5 where all were right, or all wrong.
    """
    scored = [(said.confidence, right) for said, right in answered if said.confidence is not None]
    right = [score for score, is_right in scored if is_right]
    wrong = [score for score, is_right in scored if not is_right]
    if not right or not wrong:
        return 0.5
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))
