"""Workers of other kinds than vLLM behind a real gateway and a real controller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.settings import BaseModelSettings, Timeouts, WorkerSettings
from gateway.workers.file_source import write_list
from tests.acceptance.live import wait_for
from tests.stub.llama import LlamaWorker
from tests.stub.script import Script
from tests.stub.server import StubWorker
from tests.stub.static import StaticWorker

from .conftest import MakeStack
from .stack import Stack
from .test_fallback import options

KEY = "sk-of-the-hosted-service"
IMPATIENT = Timeouts(worker_wait=1)  # for what no worker has


@pytest.fixture
def llama() -> Iterator[StubWorker]:
    with StubWorker(worker=LlamaWorker()) as stub:
        yield stub


@pytest.fixture
def stub() -> Iterator[StubWorker]:
    with StubWorker() as stub:
        yield stub


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubWorker]:
    monkeypatch.setenv("HOSTED_KEY", KEY)
    with StubWorker(worker=StaticWorker("big-model", ["my-lora-v1"], KEY)) as stub:
        yield stub


def declared(url: str, models: dict[str, str], base: str | None = None) -> WorkerSettings:
    """A hosted service that holds these models, by its own names."""
    return WorkerSettings(
        name="hosted", url=url, kind="openai", api_key_env="HOSTED_KEY", models=models, base=base
    )


def say(stack: Stack, path: str, **body: Any) -> httpx.Response:
    with stack.live.http() as http:
        return http.post(path, json=body)


def chat(stack: Stack, model: str, **more: Any) -> httpx.Response:
    message = {"role": "user", "content": "Who are you?"}
    return say(stack, "/v1/chat/completions", model=model, messages=[message], **more)


def register(stack: Stack, folder: Path) -> str:
    """Register a version of `support`; its name on workers."""
    made = stack.register("support", folder).json()
    return f"support@{made['version']}-{made['sha256'][:8]}"


def placements(stack: Stack) -> dict[str, dict[str, Any]]:
    with stack.live.admin() as admin:
        [worker] = admin.get("/admin/v1/workers").json()["data"]
    return {placement["model"]: placement for placement in worker["placements"]}


def test_llama_server_is_proven_scaled_and_never_told_to_load(
    make_stack: MakeStack, llama: StubWorker
) -> None:
    spec = WorkerSettings(name="llama", url=llama.url, kind="llamacpp")
    stack = make_stack((spec,), timeouts=IMPATIENT)
    first, second = (stack.source(f"s{n}", seed=n, scale=float(n)) for n in (1, 2))
    names = [register(stack, folder) for folder in (first, second)]
    assert not stack.callable("support@1")

    worker = llama.worker
    assert isinstance(worker, LlamaWorker)
    worker.given = dict(zip(names, (first, second), strict=True))
    llama.restart()
    for model in ("support@1", "support@2"):  # each is proven by itself, one after the other
        assert stack.routable(model), stack.controller.tail()
        assert placements(stack)[model]["effect"] == "effective"

    answer = chat(stack, "support@2", logprobs=True, seed=1).json()
    assert names[1] in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["logprobs"]["content"]
    assert not {"timings", "__verbose"} & set(answer)
    assert [e["scale"] for e in llama.seen.requests[-1].body["lora"]] == [0.0, 1.0]
    chat(stack, "base")
    assert [e["scale"] for e in llama.seen.requests[-1].body["lora"]] == [0.0, 0.0]
    assert llama.seen.requests[-1].body["max_tokens"] == stack.settings.limits.max_tokens
    text = say(stack, "/v1/completions", model="support@1", prompt="x", logprobs=2).json()
    assert names[0] in text["choices"][0]["text"]
    assert text["choices"][0]["logprobs"]["tokens"]
    with stack.live.http() as http:
        body = {"model": "support@1", "messages": [{"role": "user", "content": "x"}]}
        with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as stream:
            assert "[DONE]" in "".join(stream.iter_text())
    refused = say(stack, "/v1/tokenize", model="base", prompt="x")  # its own route is another
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_offered")
    assert llama.seen.loads == llama.seen.unloads == []


def test_an_adapter_that_llama_server_ignores_never_answers(
    make_stack: MakeStack, llama: StubWorker
) -> None:
    spec = WorkerSettings(name="l", url=llama.url, kind="llamacpp")
    stack = make_stack((spec,), timeouts=IMPATIENT)
    folder = stack.source("s1", seed=1)
    worker = llama.worker
    assert isinstance(worker, LlamaWorker)
    worker.load_fault = "no_effect"
    worker.given = {register(stack, folder): folder}
    worker.reboot()
    state = wait_for(lambda: placements(stack).get("support@1"), 60)
    assert state, stack.controller.tail()
    assert (state["effect"], state["routable"]) == ("no_effect", False)
    assert not stack.callable("support@1")


def test_an_adapter_that_llama_server_was_started_without_is_told_with_the_reason(
    make_stack: MakeStack, llama: StubWorker, tmp_path: Path
) -> None:
    path, address = tmp_path / "workers.json", ("127.0.0.1", llama.port)
    write_list(path, {address: {}})
    entry = WorkerSettings(name="local", url=f"file+{path}", kind="llamacpp")
    stack = make_stack((entry,), timeouts=IMPATIENT)
    folder = stack.source("s1", seed=1)
    name = register(stack, folder)
    write_list(path, {address: {name: "q_proj: the base model's GGUF has no such weights"}})

    why = "A worker of kind llamacpp runs without it: q_proj: the base"
    told = wait_for(lambda: (found := placements(stack)) and found.get("support@1"), 60)
    assert told, stack.controller.tail()
    assert (told["effect"], told["routable"]) == ("left_out", False)
    assert "no such weights" in told["detail"]
    [version] = stack.live.adapter("support")["versions"]
    assert version["waiting"].startswith(why)
    assert why in stack.promote("support", 1).json()["error"]["message"]
    assert wait_for(lambda: why in chat(stack, "support@1").text, 60)
    answer = chat(stack, "support@1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    assert chat(stack, "base").status_code == 200

    worker = llama.worker
    assert isinstance(worker, LlamaWorker)
    worker.given = {name: folder}
    llama.restart()
    write_list(path, {address: {}})
    assert stack.routable("support@1"), stack.controller.tail()
    assert wait_for(lambda: placements(stack)["support@1"]["effect"] == "effective", 60)


def test_a_hosted_service_answers_by_declaration(make_stack: MakeStack, hosted: StubWorker) -> None:
    stack = make_stack((declared(f"{hosted.url}/v1", {"support@1": "my-lora-v1"}),))
    register(stack, stack.source("s1", seed=1))
    assert stack.routable("support@1"), stack.controller.tail()
    placed = placements(stack)["support@1"]
    assert (placed["effect"], placed["detail"]) == ("declared", "Declared, not measured.")
    answer = chat(stack, "support@1", top_k=5, temperature=0.5).json()
    assert "my-lora-v1" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "support@1"
    seen = hosted.seen.requests[-1]
    assert (seen.model, seen.body["temperature"]) == ("my-lora-v1", 0.5)
    for kept in (stack.home / "adapterloop.db", stack.gateway.log, stack.controller.log):
        assert KEY.encode() not in kept.read_bytes()


def test_a_hosted_base_stands_in_for_an_adapter(
    make_stack: MakeStack, hosted: StubWorker, stub: StubWorker
) -> None:
    """The last of a fallback chain may be another kind of worker, with a base of its own."""
    far = declared(hosted.url, {"base": "big-model"}, base="hosted")
    stack = make_stack(
        (WorkerSettings(name="gpu", url=stub.url), far),
        bases=(BaseModelSettings(name="hosted", model="big-model"),),
    )
    stack.publish("support", stack.source("s1", seed=1))
    assert stack.routable("support"), stack.controller.tail()
    options(stack, fallback=["hosted"])
    assert chat(stack, "support").json()["model"] == "support@1"
    stub.script = Script(fault="error")
    answer = chat(stack, "support", top_k=5)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "hosted@0"
    assert answer.headers["x-fallback-from"] == "support@1"
    assert "big-model" in answer.json()["choices"][0]["message"]["content"]


def test_a_wrong_key_is_the_workers_fault_and_not_the_callers(
    make_stack: MakeStack, hosted: StubWorker
) -> None:
    spec = declared(hosted.url, {"base": "big-model"})
    stack = make_stack((spec,), timeouts=IMPATIENT)
    assert chat(stack, "base").status_code == 200
    worker = hosted.worker
    assert isinstance(worker, StaticWorker)
    worker.key = "changed"
    answer = chat(stack, "base")
    assert answer.status_code in (502, 503)
    assert "API key" not in answer.text
