"""Calls that make no text, through a whole gateway: embeddings, scores, tokens."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import openai
import pytest

from gateway.registry.service import Registry
from tests.acceptance.live import Live, wait_for
from tests.acceptance.refusals_suite import assert_openai_error
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .conftest import MakeStack
from .stack import Stack

PLANS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "the secret plan"}]},
    "/v1/completions": {"prompt": "the secret plan"},
    "/v1/embeddings": {"input": "the secret plan"},
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": ["one", "two words"]},
    "/v1/score": {"queries": "a", "documents": ["b", "c"]},
    "/score": {"text_1": ["a"], "text_2": ["b"]},
    "/v1/rerank": {"query": "a", "documents": ["b", "c", "d"], "top_n": 2},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/tokenize": {"prompt": "Hello you"},
    "/tokenize": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/detokenize": {"tokens": [1, 2, 3]},
    "/detokenize": {"tokens": []},
}


@pytest.fixture(autouse=True)
def _pooling(stub: StubWorker) -> Any:
    stub.worker.pooling = True
    stub.worker.through.clear()
    yield
    stub.worker.pooling = False


def post(live: Live, path: str, key: str | None = None, **body: Any) -> httpx.Response:
    with live.http(key) as http:
        return http.post(path, json={"model": "support"} | body)


@pytest.mark.parametrize("path", BODIES)
def test_every_route_names_the_version_that_answered(live: Live, path: str) -> None:
    answer = post(live, path, **BODIES[path])
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "support@2"
    assert answer.headers["x-adapter-version"] == "support@2"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "@2-" not in answer.text


def test_embeddings_in_every_form_that_openai_has(live: Live, stub: StubWorker) -> None:
    """The official client asks for base64 unless told otherwise."""
    with live.client() as client:
        for given, vectors in (
            ("text", [[4.0, 0.5, 0.5, 0.5]]),
            (["a", "bc"], [[1.0, 0.5, 0.5, 0.5], [2.0, 0.5, 0.5, 0.5]]),
            ([5, 6, 7], [[3.0, 0.5, 0.5, 0.5]]),
            ([[5, 6], [7]], [[2.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5]]),
        ):
            made = client.embeddings.create(model="support", input=given)
            assert [one.embedding for one in made.data] == vectors
            assert stub.worker.through[-1][1]["encoding_format"] == "base64"
        made = client.embeddings.create(
            model="support@1", input="a", encoding_format="float", dimensions=2, user="ann"
        )
    assert (made.model, made.data[0].embedding) == ("support@1", [1.0, 0.5])
    assert made.usage.prompt_tokens == made.usage.total_tokens == 1
    sent = {"model", "input", "encoding_format", "dimensions", "cache_salt"}
    assert set(stub.worker.through[-1][1]) == sent


@pytest.mark.parametrize("path", PLANS)
def test_tenants_share_no_prefix_cache(stack: Stack, stub: StubWorker, path: str) -> None:
    """What one asked before could be told by another from times and cached tokens."""
    registry = Registry.from_settings(stack.settings)
    other, _ = registry.create_key(tenant="other", owner="other", role="app")
    registry.close()
    body = {"model": "base", **PLANS[path]}
    salts = []
    for key in (None, None, other):

        def answered(key: str | None = key) -> bool:
            return post(stack.live, path, key, **body).status_code == 200

        assert wait_for(answered, 10)
        sent = stub.worker.through[-1][1] if "emb" in path else stub.seen.requests[-1].body
        salts.append(sent["cache_salt"])
    assert salts[0] == salts[1] != salts[2]


def test_what_a_worker_adds_does_not_come_out(live: Live) -> None:
    answer = post(live, "/v1/embeddings", input="a").json()
    assert set(answer) == {"object", "data", "model", "usage"}
    assert set(answer["usage"]) == {"prompt_tokens", "total_tokens"}
    assert "10.0.0.7" not in str(answer)


def test_a_model_for_generation_does_not_offer_embeddings(live: Live, stub: StubWorker) -> None:
    """Said at once and once: it is no fault that another try would mend."""
    stub.worker.pooling = False
    for path in ("/v1/embeddings", "/v1/score", "/v1/rerank"):
        stub.worker.through.clear()
        answer = post(live, path, **BODIES[path])
        error = assert_openai_error(answer, 404)
        assert error["code"] == "not_offered"
        assert error["message"] == f"The model 'support@2' does not offer {path[4:]}."
        assert len(stub.worker.through) == 1
    with live.client() as client, pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="support", input="a")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "lora_path": "/etc"}, "lora_path"),
        ("/v1/embeddings", {"input": "a", "priority": -1}, "priority"),
        ("/v1/embeddings", {"input": "a", "cache_salt": "x"}, "cache_salt"),
        ("/v1/score", {"queries": "a"}, "queries"),
        ("/v1/score", {"queries": "a", "documents": []}, "documents"),
        ("/v1/score", {"queries": "a", "text_2": "b"}, "queries"),
        ("/v1/score", {"queries": "a", "documents": "b", "text_1": "c"}, "queries"),
        ("/v1/score", {"queries": "a", "documents": "b", "instruction": "x"}, "instruction"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b"] * 2049}, "documents"),
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"messages": [], "chat_template": "{{ x }}"}, "chat_template"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "model_path": "x"}, "model_path"),
    ],
)
def test_requests_are_an_allow_list(
    live: Live, stub: StubWorker, path: str, body: dict[str, Any], param: str
) -> None:
    error = assert_openai_error(post(live, path, **body), 400)
    assert error["param"] == param
    assert param.partition("[")[0] in error["message"]
    assert stub.worker.through == []


def test_a_body_that_is_too_large(live: Live) -> None:
    assert_openai_error(post(live, "/v1/embeddings", input="x" * (4 * 1024 * 1024)), 413)


@pytest.mark.parametrize("path", BODIES)
def test_keys_are_checked_first(live: Live, stub: StubWorker, path: str) -> None:
    assert_openai_error(post(live, path, key="sk-wrong", **BODIES[path]), 401)
    assert_openai_error(post(live, path, key=live.reviewer_key, **BODIES[path]), 403)
    answer = post(live, path, **BODIES[path] | {"model": "nobodys"})
    assert assert_openai_error(answer, 404)["code"] == "model_not_found"
    assert stub.worker.through == []


def test_they_count_in_the_metrics(live: Live) -> None:
    def tokens() -> float:
        page = httpx.get(f"{live.root}/metrics", timeout=60).text
        name = 'adapterloop_tokens_total{kind="prompt",model="triage@1",tenant="default"} '
        lines = [line for line in page.splitlines() if line.startswith(name)]
        return float(lines[0].removeprefix(name)) if lines else 0.0

    before = tokens()
    answer = post(live, "/v1/embeddings", model="triage", input="one two three")
    assert tokens() == before + answer.json()["usage"]["total_tokens"]
    page = httpx.get(f"{live.root}/metrics", timeout=60).text
    assert 'adapterloop_requests_total{route="embeddings",status="200"}' in page
    assert 'adapterloop_answer_seconds_count{route="embeddings"}' in page


def test_they_count_in_the_usage(make_stack: MakeStack) -> None:
    """Also where the gateway is killed then; not with a key for evaluation."""
    stack = make_stack()
    stack.workers[0].worker.pooling = True
    with stack.live.admin() as admin:
        body = {"owner": "e", "role": "trainer", "purpose": "evaluation"}
        evaluation = admin.post("/admin/v1/keys", json=body).json()["key"]
    assert post(stack.live, "/v1/embeddings", evaluation, model="base", input="a b").is_success
    tokens, ids = 0, []
    for path in ("/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/tokenize", "/v1/detokenize"):
        answer = post(stack.live, path, **BODIES[path] | {"model": "base"})
        assert answer.status_code == 200
        ids.append(answer.headers["x-request-id"])
        tokens += answer.json().get("usage", {}).get("total_tokens", 0)
    refused = post(stack.live, "/v1/embeddings", model="base", input="a", priority=1)
    assert refused.status_code == 400
    assert stack.kept(ids)
    stack.gateway.stop(how=signal.SIGKILL)
    stack.gateway.start()
    stack.wait_ready()

    def used() -> Any:
        with stack.live.admin() as admin:
            data = admin.get("/admin/v1/usage").json()["data"]
        return data if sum(line["requests"] for line in data) >= 5 else None

    (line,) = wait_for(used, 30)
    assert (line["alias"], line["version"], line["requests"]) == ("base", 0, 5)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (tokens, 0)
    assert tokens > 5


@pytest.mark.parametrize("fault", ["error", "reset"])
def test_another_worker_answers_where_one_fails(make_stack: MakeStack, fault: Any) -> None:
    stack = make_stack(workers=2)
    for worker in stack.workers:
        worker.worker.pooling = True
    stack.workers[0].script = Script(fault=fault)
    answers = [
        post(stack.live, "/v1/embeddings", model="base", input="a", user=f"user {number}")
        for number in range(6)
    ]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert stack.workers[0].worker.through


def test_an_answer_that_is_none_is_withheld(live: Live, stub: StubWorker) -> None:
    stub.script = Script(fault="bad_json")
    error = assert_openai_error(post(live, "/v1/embeddings", input="a"), 502)
    assert error["code"] == "worker_failed"


def test_a_client_that_leaves_ends_the_workers_call(
    stack: Stack, live: Live, stub: StubWorker
) -> None:
    stub.script = Script(fault="hang")
    with closing(HTTPConnection("127.0.0.1", stack.port)) as client:
        asked = json.dumps({"model": "support", "input": "a"})
        headers = {"authorization": f"Bearer {live.api_key}"}
        client.request("POST", "/v1/embeddings", asked, headers)
        assert wait_for(lambda: stub.worker.through, 20)
    left = 'route="embeddings",status="499"'
    assert wait_for(lambda: left in httpx.get(f"{live.root}/metrics", timeout=60).text, 20)
    assert len(stub.worker.through) == 1
