"""Keys with limits, a full worker, and routes that it lacks, with real vLLM behind them."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from .live import Live, wait_for
from .refusals_suite import assert_openai_error

ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
CHAT = "/v1/chat/completions"
MINUTE, DAY = 60, 86_400


def body(model: str = "base", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": ASK, "max_tokens": 4, "temperature": 0} | more


def limited(live: Live, **limits: Any) -> str:
    """A new key with these limits."""
    with live.admin() as admin:
        made = admin.post("/admin/v1/keys", json={"owner": "limited", **limits})
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


def refused(live: Live, key: str | None = None, **more: Any) -> openai.RateLimitError:
    """What the official client raises for a call that is one too many."""
    with (
        live.client(api_key=key or live.api_key) as client,
        pytest.raises(openai.RateLimitError) as raised,
    ):
        client.chat.completions.create(**body(**more))
    return raised.value


def within_one(period: int, seconds: float) -> None:
    """Wait for the next of the minutes or days that limits count, where this one is about to end.

    In seconds; so many must be left.
    """
    rest = period - time.time() % period
    if rest < seconds:
        time.sleep(rest)


def test_requests_a_minute(live: Live) -> None:
    key = limited(live, requests_per_minute=2)
    within_one(MINUTE, 20)
    with live.http(key) as http:
        assert http.post(CHAT, json=body(max_tokens=1)).status_code == 200
        streamed = http.post(CHAT, json=body(max_tokens=1, stream=True))
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
        for stream in (False, True):
            answer = http.post(CHAT, json=body(stream=stream))
            error = assert_openai_error(answer, 429)
            assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
            assert 1 <= int(answer.headers["retry-after"]) <= 121
    raised = refused(live, key)
    assert raised.code == "rate_limit_exceeded"
    assert "2 requests a minute" in raised.message


def test_a_budget_is_used_by_what_the_worker_counts(live: Live) -> None:
    """To the token, though much more was reserved; streams that do not tell of usage too."""
    calls = (body(max_tokens=3), body(max_tokens=5, stream=True))
    with live.http() as http:
        used = [http.post(CHAT, json={**call, "stream": False}).json()["usage"] for call in calls]
    total = sum(usage["total_tokens"] for usage in used)
    assert [usage["completion_tokens"] for usage in used] == [3, 5]
    within_one(DAY, 60)
    for spare in (0, 1):
        key = limited(live, token_budget=total + spare, budget_period="day")
        with live.http(key) as http:
            for call in calls:
                assert http.post(CHAT, json=call).status_code == 200
            last = http.post(CHAT, json=body(max_tokens=1))
            assert last.status_code == (200 if spare else 429), last.text
            answer = http.post(CHAT, json=body(max_tokens=1))
        assert assert_openai_error(answer, 429)["code"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
        for stream in (False, True):
            assert refused(live, key, stream=stream).code == "insufficient_quota"


def metric(live: Live, name: str) -> float:
    page = httpx.get(f"{live.root}/metrics", timeout=30).text
    found = re.findall(rf"^{re.escape(name)}(?:{{.*?}})? (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))


def running(live: Live) -> float:
    """Calls that vLLM runs or queues."""
    with live.admin() as admin:
        url = admin.get("/admin/v1/workers").json()["data"][0]["url"]
    page = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(
        r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", page, re.MULTILINE
    )
    return sum(map(float, found))


def test_calls_wait_while_the_worker_is_full(narrow: Live) -> None:
    def call(tokens: int) -> httpx.Response:
        with narrow.http() as http:
            return http.post(CHAT, json=body(max_tokens=tokens, min_tokens=tokens))

    served = 'adapterloop_queue_seconds_count{end="served"}'
    assert wait_for(lambda: running(narrow) == 0, 30)
    before = metric(narrow, served)
    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(call, 150) for _ in range(2)]
        assert wait_for(lambda: metric(narrow, "adapterloop_worker_full") == 1, 20)
        waiting = [pool.submit(call, 2) for _ in range(4)]
        assert wait_for(lambda: metric(narrow, "adapterloop_queue") == 4, 20)
        with narrow.http() as http:
            one_too_many = http.post(CHAT, json=body())
        assert refused(narrow, stream=True).code == "overloaded"
        together: list[float] = []

        def all_done() -> bool:
            together.append(running(narrow))
            return all(future.done() for future in waiting)

        assert wait_for(all_done, 120)
        answers = [future.result() for future in (*first, *waiting)]
    assert max(together) == 2
    assert assert_openai_error(one_too_many, 429)["code"] == "overloaded"
    assert 1 <= int(one_too_many.headers["retry-after"]) <= 60
    assert {answer.status_code for answer in answers} == {200}
    assert ["x-queue-ms" in answer.headers for answer in answers] == [False] * 2 + [True] * 4
    assert all(int(answer.headers["x-queue-ms"]) > 0 for answer in answers[2:])
    assert metric(narrow, served) - before == 4
    assert metric(narrow, "adapterloop_queue_seconds_sum") > 0
    assert metric(narrow, "adapterloop_queue") == 0


@pytest.mark.parametrize(
    ("route", "more"),
    [
        ("/v1/embeddings", {"input": "Hello"}),
        ("/v1/score", {"queries": "a", "documents": "b"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
def test_a_route_that_this_worker_lacks(live: Live, route: str, more: dict[str, Any]) -> None:
    with live.http() as http:
        answer = http.post(route, json={"model": live.alias, **more})
    error = assert_openai_error(answer, 404)
    assert error["code"] == "not_offered"
    assert route.removeprefix("/v1/") in error["message"]


def test_embeddings_by_the_official_client(live: Live) -> None:
    with live.client() as client, pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model=live.alias, input="Hello")
    assert raised.value.code == "not_offered"


@pytest.mark.parametrize("route", ["/v1/tokenize", "/tokenize"])
def test_tokens_are_counted_as_the_worker_counts_them(live: Live, route: str) -> None:
    asked = {"model": live.alias, "messages": ASK}
    with live.http() as http:
        counted = http.post(route, json=asked)
        usage = http.post(CHAT, json=body(live.alias, max_tokens=1)).json()["usage"]
        pieces = {"model": live.alias, "tokens": counted.json()["tokens"]}
        text = http.post("/v1/detokenize", json=pieces).json()["prompt"]
    assert counted.status_code == 200, counted.text
    assert counted.json()["count"] == len(counted.json()["tokens"]) == usage["prompt_tokens"]
    assert ASK[0]["content"] in text
    for headers in ({}, {"authorization": "Bearer sk-nobodys"}):
        answer = httpx.post(live.root + route, json=asked, headers=headers, timeout=30)
        assert assert_openai_error(answer, 401)["code"] == "invalid_api_key"
