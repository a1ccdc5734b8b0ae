"""Limits of keys through a whole gateway: every serving route, every way a call can end."""

from __future__ import annotations

import itertools
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.live import Live, wait_for
from tests.acceptance.refusals_suite import assert_openai_error
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .conftest import Keys
from .wire import CHAT, RESPONSES, ROUTES, TEXT, body_for, events_of

PLENTY = 1_000_000
LONG = "The train leaves at noon and arrives in the evening. " * 40
FOUL = "You are a stupid worthless idiot and I hate you. "
CASES = [
    *((route, body_for(route, "support", "Hello"), True) for route in ROUTES),
    *((route, body_for(route, "support", "Hello", stream=True), True) for route in ROUTES),
    ("/v1/embeddings", {"model": "support", "input": "a"}, True),
    ("/v1/score", {"model": "support", "queries": "a", "documents": "b"}, True),
    ("/v1/rerank", {"model": "support", "query": "a", "documents": ["b"]}, True),
    ("/v1/tokenize", {"model": "support", "prompt": "Hello"}, False),
    ("/tokenize", {"model": "support", "prompt": "Hello"}, False),
    ("/v1/detokenize", {"model": "support", "tokens": [1]}, False),
    ("/v1/moderations", {"input": "Hello"}, False),
    ("/v1/feedback", {"rating": "up"}, False),
]
IDS = [f"{path}{' streamed' if body.get('stream') else ''}" for path, body, _ in CASES]


def within_one_minute(seconds: float) -> None:
    """Wait for the next of the minutes that limits count, where this one has not that much left."""
    rest = 60 - time.time() % 60
    if rest < seconds:
        time.sleep(rest)


@pytest.fixture(autouse=True)
def _within_one_minute() -> None:
    """Keep a test's calls in one minute."""
    within_one_minute(15)


def told(answer: httpx.Response) -> dict[str, str]:
    """The rate-limit headers, less their common beginning."""
    begin = "x-ratelimit-"
    return {
        name.removeprefix(begin): value
        for name, value in answer.headers.items()
        if name.startswith(begin)
    }


def left(client: httpx.Client) -> int:
    """Tokens of the minute that a key has left; asking costs it one."""
    answer = client.post("/v1/embeddings", json={"model": "support", "input": "a"})
    assert answer.status_code == 200, answer.text
    reserved = len(answer.request.content) // 4 + 1
    return int(told(answer)["remaining-tokens"]) + reserved


@pytest.mark.parametrize(("path", "body", "uses_tokens"), CASES, ids=IDS)
def test_every_serving_route_is_limited(
    keys: Keys, live: Live, path: str, body: dict[str, Any], uses_tokens: bool
) -> None:
    client = keys(requests_per_minute=1, tokens_per_minute=PLENTY)
    if path == "/v1/feedback":
        with live.client() as official:
            said = official.chat.completions.create(
                model="support", messages=[{"role": "user", "content": "Hello"}]
            )
        body = body | {"response_id": said.id}
    first = client.post(path, json=body)
    assert first.status_code == 200, first.text
    headers = told(first)
    assert headers["limit-requests"] == "1"
    assert headers["remaining-requests"] == "0"
    assert headers["reset-requests"].endswith("s")
    assert ("limit-tokens" in headers) is uses_tokens
    if uses_tokens:
        assert headers["limit-tokens"] == str(PLENTY)
        assert 0 < int(headers["remaining-tokens"]) < PLENTY
    refused = client.post(path, json=body)
    error = assert_openai_error(refused, 429)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert told(refused)["remaining-requests"] == "0"
    assert 1 <= int(refused.headers["retry-after"]) <= 121


def test_looking_costs_nothing(keys: Keys) -> None:
    client = keys(requests_per_minute=1)
    for _ in range(3):
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models/support").status_code == 200


def test_tokens_a_minute_and_the_official_client(keys: Keys, live: Live) -> None:
    client = keys(tokens_per_minute=300)
    body = body_for(CHAT, "support", "Hello", max_tokens=299)
    assert client.post(CHAT, json=body).status_code == 200
    refused = client.post(CHAT, json=body)
    assert assert_openai_error(refused, 429)["type"] == "tokens"
    secret = client.headers["authorization"].removeprefix("Bearer ")
    with (
        live.client(api_key=secret) as official,
        pytest.raises(openai.RateLimitError, match="300 tokens a minute"),
    ):
        official.chat.completions.create(
            model="support", messages=[{"role": "user", "content": "Hello"}], max_tokens=299
        )


def test_a_spent_budget_is_said_and_not_tried_again(keys: Keys, live: Live) -> None:
    client = keys(token_budget=1, budget_period="day")
    body = body_for(CHAT, "support", "Hello")
    assert client.post(CHAT, json=body).status_code == 200
    refused = client.post(CHAT, json=body)
    assert assert_openai_error(refused, 429)["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    # What costs no tokens goes on.
    assert client.post("/v1/moderations", json={"input": "Hello"}).status_code == 200
    assert client.post("/tokenize", json={"model": "support", "prompt": "a"}).status_code == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_settled_is_what_the_answer_tells(keys: Keys, route: str, stream: bool) -> None:
    client = keys(tokens_per_minute=PLENTY)
    more = {"stream": True} if stream else {}
    if stream and route != RESPONSES:
        more["stream_options"] = {"include_usage": True}
    answer = client.post(route, json=body_for(route, "support", "Hello", **more))
    assert left(client) == PLENTY - total_of(route, answer, stream=stream)


def total_of(route: str, answer: httpx.Response, *, stream: bool) -> int:
    """The tokens that an answer says it cost."""
    if not stream:
        return int(answer.json()["usage"]["total_tokens"])
    *_, last = [event for event in events_of(answer.text) if isinstance(event, dict)]
    usage = last["response"]["usage"] if route == RESPONSES else last["usage"]
    return int(usage["total_tokens"])


@pytest.mark.parametrize("route", [CHAT, TEXT])
def test_a_client_that_leaves_in_the_middle_pays_for_what_came(
    keys: Keys, stub: StubWorker, route: str
) -> None:
    client = keys(tokens_per_minute=PLENTY)
    stub.script = Script(text=LONG, delay=0.02)
    body = body_for(route, "support", "Hello", stream=True, max_tokens=4000)
    with client.stream("POST", route, json=body) as answer:
        lines = (line for line in answer.iter_lines() if "train" in line)
        assert len(list(itertools.islice(lines, 3))) == 3
    assert stub.wait_idle(20)
    stub.script = Script()
    used = wait_for(lambda: (gone := PLENTY - left(client)) < 1000 and gone, 20)
    assert 20 < used < 400


def calls_of(stub: StubWorker) -> int:
    """How many calls have come to the worker."""
    return sum(stub.seen.paths[route] for route in (CHAT, TEXT, "/v1/embeddings"))


def leave_once_it_runs(
    client: httpx.Client, stub: StubWorker, route: str, body: dict[str, Any]
) -> None:
    """Send a call, and close its connection once the worker has the call."""
    request, before = client.build_request("POST", route, json=body), calls_of(stub)
    lines = [
        f"POST {route} HTTP/1.1",
        *(f"{name}: {told}" for name, told in request.headers.items()),
    ]
    with socket.create_connection((request.url.host, request.url.port or 80)) as wire:
        wire.sendall("\r\n".join([*lines, "\r\n"]).encode() + request.content)
        assert wait_for(lambda: calls_of(stub) > before, 20)


@pytest.mark.parametrize("route", [CHAT, TEXT, RESPONSES, "/v1/embeddings"])
def test_a_client_that_leaves_a_unary_call_pays_for_its_prompt(
    keys: Keys, stub: StubWorker, route: str
) -> None:
    client = keys(tokens_per_minute=PLENTY)
    stub.script = Script(fault="hang")
    words = "Hello " * 200
    body = {"model": "support", "input": words}
    if route != "/v1/embeddings":
        body = body_for(route, "support", words)
    leave_once_it_runs(client, stub, route, body)
    assert stub.wait_idle(20)
    stub.script = Script()
    estimate = len(httpx.Request("POST", "http://x", json=body).content) // 4
    # Each look costs one, and a chat has reserved 256 more.
    paid = wait_for(lambda: (used := PLENTY - left(client)) < estimate + 100 and used, 20)
    assert estimate <= paid


def test_a_worker_that_fails_costs_nothing(keys: Keys, stub: StubWorker) -> None:
    within_one_minute(30)  # both calls wait ten seconds for another worker
    client = keys(tokens_per_minute=PLENTY)
    stub.script = Script(fault="error")
    bodies = [
        body_for(CHAT, "support", "Hello", stream=stream, max_tokens=4000)
        for stream in (False, True)
    ]
    with ThreadPoolExecutor() as pool:
        for answer in pool.map(lambda body: client.post(CHAT, json=body), bodies):
            assert answer.status_code >= 500
    stub.script = Script()
    assert left(client) == PLENTY


def test_a_stream_that_dies_costs_what_came(keys: Keys, stub: StubWorker) -> None:
    client = keys(tokens_per_minute=PLENTY)
    stub.script = Script(text=LONG, fault="die", fault_after=40)
    body = body_for(CHAT, "support", "Hello", stream=True, max_tokens=4000)
    assert "worker_failed" in client.post(CHAT, json=body).text
    stub.script = Script()
    assert 40 <= PLENTY - left(client) < 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_a_guard_ends_costs_what_the_worker_made(
    keys: Keys, stub: StubWorker, stream: bool
) -> None:
    client = keys(tokens_per_minute=PLENTY)
    # Streamed, it is slow enough for the guard to end it long before it is whole.
    stub.script = Script(text="Good day to you. " + FOUL + LONG, delay=0.03 if stream else 0.002)
    body = body_for(CHAT, "support", "Hello", stream=stream, max_tokens=4000)
    answer = client.post(CHAT, json=body)
    assert "content_filter" in answer.text
    assert "idiot" not in answer.text
    stub.script = Script()
    used = PLENTY - left(client)
    if stream:
        assert 10 < used < 400
    else:
        assert used == answer.json()["usage"]["total_tokens"] > 400


def test_a_refused_request_reserves_nothing(keys: Keys) -> None:
    client = keys(tokens_per_minute=PLENTY)
    for body in ({"model": "nobodys"}, {"model": "support", "messages": "x"}, {"n": 10**6}):
        full = body_for(CHAT, "support", "Hello") | body
        assert 400 <= client.post(CHAT, json=full).status_code < 500
    assert left(client) == PLENTY


def test_keys_for_evaluation_are_not_limited(keys: Keys, live: Live) -> None:
    answer = keys(role="trainer", purpose="evaluation").post(
        CHAT, json=body_for(CHAT, "support", "Hello")
    )
    assert (answer.status_code, told(answer)) == (200, {})
    with live.admin() as admin:
        asked = {"owner": "e", "purpose": "evaluation", "requests_per_minute": 1}
        refused = admin.post("/admin/v1/keys", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "requests_per_minute"


def test_a_rotated_key_goes_on_where_the_old_one_was(keys: Keys, live: Live) -> None:
    old = keys(requests_per_minute=2)
    with live.admin() as admin:
        number = admin.get("/admin/v1/keys").json()["data"][-1]["id"]
        new = admin.post(f"/admin/v1/keys/{number}/rotate", json={}).json()["key"]
    body = body_for(CHAT, "support", "Hello")
    assert old.post(CHAT, json=body).status_code == 200
    with live.http(new) as client:
        assert told(client.post(CHAT, json=body))["remaining-requests"] == "0"
        assert client.post(CHAT, json=body).status_code == 429
    assert old.post(CHAT, json=body).status_code == 429
    with live.admin() as admin:
        admin.patch(f"/admin/v1/keys/{number}", json={"requests_per_minute": 4})
    with live.http(new) as client:
        assert client.post(CHAT, json=body).status_code == 200
        assert old.post(CHAT, json=body).status_code == 200
        assert client.post(CHAT, json=body).status_code == 429
