"""Calls at once of a key through a whole gateway: every route, every way a call can end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.acceptance.live import wait_for
from tests.acceptance.refusals_suite import assert_openai_error
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .conftest import Keys
from .wire import CHAT, ROUTES, body_for

LONG = "The train leaves at noon and arrives in the evening. " * 40
PASSES = {"model": "support", "input": "a"}


@contextmanager
def held(client: httpx.Client, stub: StubWorker, path: str, body: Any) -> Iterator[Future[Any]]:
    """One call that a worker answers until the block ends."""
    stub.script = Script(fault="hang")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, path, json=body, timeout=2)
        assert wait_for(lambda: "adapterloop_in_flight 1.0" in client.get("/metrics").text, 20)
        yield call


def free(client: httpx.Client) -> bool:
    """Whether the key may call again."""
    answer = client.post(CHAT, json=body_for(CHAT, "support", "Hello"))
    return answer.status_code == 200


CALLS = [
    *((path, body_for(path, "support", "Hello")) for path in ROUTES),
    *((path, body_for(path, "support", "Hello", stream=True)) for path in ROUTES),
    ("/v1/embeddings", PASSES),
]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_one_more_is_refused_until_the_client_of_the_first_has_left(
    keys: Keys, stub: StubWorker, path: str, body: dict[str, Any]
) -> None:
    client = keys(max_parallel=1)
    with held(client, stub, path, body) as call:
        for other, more in ((CHAT, body_for(CHAT, "support", "x")), ("/v1/embeddings", PASSES)):
            refused = client.post(other, json=more)
            error = assert_openai_error(refused, 429)
            assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "1"
        assert isinstance(call.exception(), httpx.ReadTimeout)
    stub.script = Script()
    assert wait_for(lambda: free(client), 10)


def test_other_keys_are_not_held_up(keys: Keys, stub: StubWorker) -> None:
    client, other = keys(max_parallel=1), keys(max_parallel=1)
    with held(client, stub, CHAT, body_for(CHAT, "support", "Hello")):
        stub.script = Script()
        assert free(other)
        assert not free(client)


@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(fault="error"),
        Script(text=LONG, fault="die", fault_after=40),
        Script(text="You are a stupid worthless idiot and I hate you. " + LONG),
    ],
    ids=["well", "the worker fails", "the stream breaks", "a guard ends it"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_has_ended_counts_no_more(
    keys: Keys, stub: StubWorker, script: Script, stream: bool
) -> None:
    client = keys(max_parallel=1)
    stub.script = script
    for _ in range(2):
        body = body_for(CHAT, "support", "Hello", stream=stream, max_tokens=4000)
        assert client.post(CHAT, json=body, timeout=60).status_code != 429
    stub.script = Script()
    assert free(client)


def test_feedback_is_never_one_too_many(keys: Keys, stub: StubWorker) -> None:
    client, body = keys(max_parallel=1), body_for(CHAT, "support", "Hello")
    flag = {"response_id": client.post(CHAT, json=body).json()["id"], "rating": "down"}
    with held(client, stub, CHAT, body):
        assert client.post("/v1/feedback", json=flag).status_code == 200
        assert client.post("/v1/moderations", json={"input": "Hello"}).status_code == 429
