"""Records of the loop to put into a gateway: rows, answers, flags and verdicts of the gate."""

from __future__ import annotations

import json

from fastapi import FastAPI
from sqlalchemy import insert

from feedback.db import writing
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS

ROWS = [
    {"instruction": "Answer.", "input": f"question {n}", "output": f"answer {n}", "slice": "s"}
    for n in range(5)
]


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def answered(app: FastAPI, number: int, **changes: object) -> str:
    """Put a capture into the store, with a review item."""
    response_id = f"chatcmpl-{number:048x}"
    values = {
        "id": response_id,
        "tenant": "default",
        "alias": "support",
        "version": 1,
        "version_id": 2,
        "key_id": 1,
        "worker": "w",
        "route": "/v1/chat/completions",
        "messages": [{"role": "user", "content": "What?"}],
        "parameters": {},
        "choices": [{"index": 0, "content": "Nothing."}],
        "usage": {},
        "outcome": "ok",
        "audit": [],
        "started": 4e9,
        "duration": 1.0,
        "reasons": ["flagged"],
        "inclusion_probability": 1.0,
        "keep_until": 5e9,
        "request_id": "r",
        "scrubber": "s",
        **changes,
    }
    item = {
        "tenant": "default",
        "response_id": response_id,
        "alias": "support",
        "version": 1,
        "reason": "flagged",
        "priority": 3.0,
        "status": "open",
        "created_at": 1.0,
        "inclusion_probability": 1.0,
    }
    with writing(app.state.serving.database) as connection:
        connection.execute(insert(CAPTURES).values(**values))
        connection.execute(insert(REVIEW_ITEMS).values(**item))
    return response_id


def flag(app: FastAPI, response_id: str) -> None:
    """Say of an answer that it is bad."""
    values = {
        "id": f"fb-{response_id}",
        "tenant": "default",
        "response_id": response_id,
        "key_id": 1,
        "rating": "down",
        "labels": [],
        "body_sha256": "0",
        "status": "linked",
        "replied": "linked",
        "created_at": 1.0,
    }
    with writing(app.state.serving.database) as connection:
        connection.execute(insert(FEEDBACK).values(**values))


def gate(verdict: str, against: str = "base") -> dict[str, object]:
    return {
        "alias": "support",
        "candidate": "support@1",
        "against": against,
        "verdict": verdict,
        "report": {},
    }
