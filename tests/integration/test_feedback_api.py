"""`/v1/feedback` and what lies behind it, on a whole gateway with the real guards."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from gateway.registry.service import Registry
from tests.acceptance.live import Live, wait_for

from .conftest import MakeStack
from .stack import Stack

SECRETS = ("Maria Keller", "maria.keller@corp.test", "212-456-7890")
QUESTION = f"I am {SECRETS[0]}. Mail {SECRETS[1]} or call {SECRETS[2]} about AC-6890."


def ask(http: httpx.Client, content: str = "Hello", **fields: Any) -> httpx.Response:
    body = {"model": "support", "messages": [{"role": "user", "content": content}]} | fields
    return http.post("/v1/chat/completions", json=body)


def answered(http: httpx.Client, content: str = "Hello") -> str:
    return str(ask(http, content).json()["id"])


def rows(stack: Stack, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(stack.home / "adapterloop.db", timeout=10)) as connection:
        return connection.execute(query, values).fetchall()


def known(http: httpx.Client, response_id: str) -> dict[str, Any]:
    """What is told of an answer once it is in the store."""

    def linked() -> dict[str, Any] | None:
        told = http.get(f"/v1/feedback/{response_id}")
        assert told.status_code == 200, told.text
        body: dict[str, Any] = told.json()
        return body if body["status"] == "linked" else None

    body = wait_for(linked, 30)
    assert body
    return body


def said_of(http: httpx.Client, response_id: str) -> dict[str, Any]:
    """The one thing that was said of an answer, once it is in the store beside it."""
    told = wait_for(lambda: known(http, response_id)["feedback"], 30)
    (said,) = told
    assert said["status"] == "linked"
    return dict(said)


def test_an_answer_is_told_and_flagged(live: Live, stack: Stack) -> None:
    with live.http() as http:
        unary = ask(http)
        response_id = unary.json()["id"]
        told = known(http, response_id)
        assert told["model"] == "support@2"
        assert f"{told['confidence']:.4f}" == unary.headers["x-confidence"]
        assert told["guardrails"] == unary.headers["x-guardrails"]
        body = {"response_id": response_id, "rating": "down", "labels": ["wrong"], "score": 0.25}
        said = http.post("/v1/feedback", json=body)
        assert said.status_code == 200, said.text
        assert said.json() == {
            "id": said.json()["id"],
            "object": "feedback",
            "response_id": response_id,
            "status": "linked",
        }
        one = said_of(http, response_id)
        assert (one["rating"], one["labels"], one["score"]) == ("down", ["wrong"], 0.25)
    items = rows(stack, "SELECT reason FROM review_items WHERE response_id = ?", response_id)
    assert items == [("flagged",)]


def test_a_streams_confidence_is_told_later(live: Live) -> None:
    with live.client() as client, live.http() as http:
        stream = client.chat.completions.create(
            model="support", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        (response_id,) = {chunk.id for chunk in stream}
        told = known(http, response_id)
    assert told["confidence"] < 0
    assert told["choices"][0]["finish_reason"] == "stop"


def test_feedback_may_come_first(live: Live, stack: Stack) -> None:
    with live.http() as http:
        response_id = answered(http)
        said = http.post("/v1/feedback", json={"response_id": response_id, "rating": "up"})
        assert said.json()["status"] in ("pending", "linked")
        assert said_of(http, response_id)["rating"] == "up"


def test_an_idempotency_key(live: Live) -> None:
    with live.http() as http:
        body = {"response_id": answered(http), "rating": "down"}
        headers = {"idempotency-key": f"k-{time.time_ns()}"}
        first = http.post("/v1/feedback", json=body, headers=headers)
        known(http, body["response_id"])  # meanwhile the answer is shipped
        again = http.post("/v1/feedback", json=body, headers=headers)
        assert (again.status_code, again.json()) == (200, first.json())
        other = http.post("/v1/feedback", json=body | {"rating": "up"}, headers=headers)
        assert other.status_code == 409
        assert other.json()["error"]["type"] == "invalid_request_error"
        assert said_of(http, body["response_id"])["rating"] == "down"


def test_only_ones_own_answers(live: Live, stack: Stack) -> None:
    registry = Registry.from_settings(stack.settings)
    stranger, _ = registry.create_key(tenant="other", owner="o", role="app")
    registry.close()
    with live.http() as mine, live.http(stranger) as theirs:
        response_id = answered(mine)
        assert wait_for(lambda: theirs.get("/v1/models").status_code == 200, 20)
        other_route = response_id.replace("chatcmpl-", "cmpl-x")
        last = "0" if response_id[-1] != "0" else "1"
        for http, name in (
            (theirs, response_id),
            (mine, response_id[:-1] + last),
            (mine, other_route),
            (mine, response_id.upper()),
            (mine, "chatcmpl-1"),
            (mine, ""),
        ):
            said = http.post("/v1/feedback", json={"response_id": name, "rating": "up"})
            assert said.status_code == 404, said.text
            assert said.json()["error"]["param"] == "response_id"
        assert theirs.get(f"/v1/feedback/{response_id}").status_code == 404
        bare = httpx.post(f"{live.root}/v1/feedback", json={"response_id": response_id})
        assert bare.status_code == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "rating"),
        ({"labels": [], "comment": ""}, "rating"),
        ({"rating": "sideways"}, "rating"),
        ({"score": 1.5}, "score"),
        ({"score": "high"}, "score"),
        ({"labels": "wrong"}, "labels"),
        ({"labels": ["x" * 65]}, "labels[0]"),
        ({"labels": ["x"] * 21}, "labels"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"correction": "  "}, "correction"),
        ({"rating": "up", "weight": 3}, "weight"),
        ({"response_id": None, "rating": "up"}, "response_id"),
    ],
)
def test_a_mistake_is_named(live: Live, fields: dict[str, Any], param: str) -> None:
    with live.http() as http:
        body = {"response_id": answered(http)} | fields
        said = http.post("/v1/feedback", json=body)
    assert said.status_code == 400, said.text
    assert said.json()["error"]["param"] == param


def test_no_personal_data_is_at_rest(live: Live, stack: Stack) -> None:
    with live.http() as http:
        asked = ask(http, QUESTION, user=SECRETS[1])
        response_id = asked.json()["id"]
        correction = f"We have written to {SECRETS[1]}."
        body = {"response_id": response_id, "correction": correction, "comment": SECRETS[2]}
        assert http.post("/v1/feedback", json=body).status_code == 200
        said = said_of(http, response_id)
    ((messages, session),) = rows(
        stack, "SELECT messages, session FROM captures WHERE id = ?", response_id
    )
    (message,) = json.loads(messages)
    assert "AC-6890" in message["content"]
    addresses = [word for word in message["content"].split() if "@" in word]
    assert said["correction"] == f"We have written to {addresses[0]}."
    assert session not in (None, SECRETS[1])
    for path in [*stack.home.glob("adapterloop.db*"), *(stack.home / "outbox").iterdir()]:
        if path.is_file():
            data = path.read_bytes()
            assert not [secret for secret in SECRETS if secret.encode() in data], path


def test_records_are_counted(live: Live) -> None:
    with live.http() as http:
        known(http, answered(http))
        page = http.get("/metrics").text
    for fate in ("waiting", "shipped", "dropped", "failed", "aside"):
        assert f'adapterloop_outbox{{fate="{fate}"}}' in page
    assert 'adapterloop_outbox{fate="dropped"} 0.0' in page


@contextmanager
def held(stack: Stack) -> Iterator[None]:
    """Keep every writer out of the store."""
    with closing(sqlite3.connect(stack.home / "adapterloop.db", isolation_level=None)) as one:
        one.execute("PRAGMA busy_timeout=30000")
        one.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            one.execute("ROLLBACK")


def test_while_the_store_is_away_nothing_fails_and_nothing_is_lost(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    ids, flags = [], []
    with stack.live.http() as http:
        with held(stack):
            begin = time.monotonic()
            while time.monotonic() < begin + 7:
                one = ask(http)
                assert one.status_code == 200, one.text
                ids.append(one.json()["id"])
                said = http.post("/v1/feedback", json={"response_id": ids[-1], "rating": "down"})
                assert said.status_code == 200, said.text
                assert said.json()["status"] == "pending"
                flags.append(said.json()["id"])
        for response_id in ids:
            known(http, response_id)
    stack.gateway.stop()
    got = rows(stack, "SELECT response_id, id, status FROM feedback")
    assert sorted(got) == sorted(
        (response_id, flag, "linked") for response_id, flag in zip(ids, flags, strict=True)
    )


def test_a_gateway_that_ends_empties_its_outbox(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    with stack.live.http() as http:
        ids = {answered(http) for _ in range(20)}
    stack.gateway.stop()
    assert ids <= {name for (name,) in rows(stack, "SELECT id FROM captures")}
    box = stack.home / "outbox" / f"gateway-{stack.port}.db"
    with closing(sqlite3.connect(box)) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_a_killed_gateways_records_are_shipped_by_the_next(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    with stack.live.http() as http:
        ids = [answered(http) for _ in range(5)]
        said = http.post("/v1/feedback", json={"response_id": ids[0], "rating": "down"})
        assert said.status_code == 200
    assert stack.kept(ids)
    stack.gateway.stop(how=signal.SIGKILL)
    stack.gateway.start()
    stack.wait_ready()
    with stack.live.http() as http:
        for response_id in ids:
            known(http, response_id)
        assert said_of(http, ids[0])["rating"] == "down"


def test_an_alias_may_be_left_out(make_stack: MakeStack) -> None:
    stack = make_stack(feedback={"capture": {"support": "none"}})
    stack.publish("support", stack.source("support-1", seed=1))
    with stack.live.http() as http:
        response_id = answered(http)
        with stack.live.admin() as admin:
            lines = wait_for(lambda: admin.get("/admin/v1/usage").json()["data"], 30)
        # What it used is known, and by then its answer would be.
        (line,) = lines
        assert (line["alias"], line["version"], line["requests"]) == ("support", 1, 1)
        assert line["prompt_tokens"] > 0 < line["completion_tokens"]
        assert http.get(f"/v1/feedback/{response_id}").json()["status"] == "pending"
    assert rows(stack, "SELECT count(*) FROM captures") == [(0,)]
