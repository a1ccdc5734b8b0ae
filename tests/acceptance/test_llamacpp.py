"""Adapters on the real llama-server: proven, switched by each call, exchanged under streams."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest

from deploy.config import load
from deploy.llamacpp.server import program
from gateway.workers.file_source import read_list

from .conftest import processes_of, running
from .live import Live, wait_for

PROGRAM = program(load())
CHAT = "/v1/chat/completions"
SYSTEM = "Sort this Acme Cloud ticket. Answer with JSON only: product, issue, priority, order_id."
TICKET = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "The object store has been down since 9. Order AC-2041."},
]
STREAMS = 4
STORY = 1800

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(),
    reason=f"no llama-server at {PROGRAM}: `adapterloop setup --worker llamacpp` builds it",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The whole loop with llama.cpp."""
    home = tmp_path_factory.mktemp("llama") / "home"
    program = {"ADAPTERLOOP_LOCAL_WORKER__LLAMA_SERVER": str(PROGRAM)}
    with running(home, "--worker", "llamacpp", **program) as live:
        yield live


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": TICKET, "max_tokens": 32, "temperature": 0} | more


def text(live: Live, model: str) -> str:
    with live.http() as http:
        answer = http.post(CHAT, json=body(model))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def servers(live: Live) -> dict[int, psutil.Process]:
    """The llama-servers that run, by their ports."""
    found = {}
    for process in processes_of(live.home):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line and line[0] == str(PROGRAM):
            found[int(line[line.index("--port") + 1])] = process
    return found


def keepers(live: Live) -> list[psutil.Process]:
    """What keeps the llama-servers."""
    found = []
    for process in processes_of(live.home):
        with suppress(psutil.Error):
            if process.cmdline()[-2:] == ["worker", "--die-with-parent"]:
                found.append(process)
    return found


def listed(live: Live) -> set[int]:
    return {port for _, port in read_list(live.home / "llamacpp-workers.json")}


def effects(live: Live) -> dict[int, set[str]]:
    """What the proofs on workers that run said, by version."""
    return {
        one["version"]: {place["effect"] for place in one["placements"] if place["current"]}
        for one in live.adapter("support")["versions"]
    }


def proven(live: Live, count: int) -> bool:
    told = effects(live)
    return len(told) == count and all(seen == {"effective"} for seen in told.values())


def metric(port: int, name: str) -> float:
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    [value] = re.findall(rf"^llamacpp:{name} (\S+)$", told, re.MULTILINE)
    return float(value)


def running_calls(port: int) -> float:
    return metric(port, "requests_processing")


def predicted(port: int) -> float:
    """Tokens of answers that came to their end."""
    return metric(port, "tokens_predicted_total")


def test_both_shipped_adapters_are_effective_and_answer_otherwise(llama: Live) -> None:
    assert wait_for(lambda: proven(llama, 2), 120, 0.5), effects(llama)
    base, first, second = (text(llama, m) for m in ("base", "support@1", "support@2"))
    assert len({base, first, second}) == 3
    assert '"product"' in first
    assert '"product"' in second


def test_what_one_adapter_was_asked_never_colours_another_ones_answer(llama: Live) -> None:
    """llama-server's own cache of prompts would: it goes by the tokens alone."""
    models = ("base", "support@1", "support@2")
    alone = {model: text(llama, model) for model in models}
    for model in (*models, *reversed(models), *models):
        assert text(llama, model) == alone[model]


def test_an_answer_carries_logprobs_usage_and_confidence(llama: Live) -> None:
    with llama.http() as http:
        answer = http.post(CHAT, json=body("support@1", logprobs=True, top_logprobs=2))
    choice = answer.json()["choices"][0]
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert answer.json()["usage"]["completion_tokens"] >= len(choice["logprobs"]["content"]) - 1
    assert float(answer.headers["x-confidence"]) < 0


def test_a_schema_is_kept_and_what_is_not_offered_is_refused(llama: Live) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    with llama.http() as http:
        told = http.post(CHAT, json=body("base", response_format=wanted)).json()
        refused = [
            http.post(f"/v1/{route}", json={"model": "base"} | more)
            for route, more in (("embeddings", {"input": "x"}), ("tokenize", {"prompt": "x"}))
        ]
    assert re.fullmatch(
        r'\{\s*"colour"\s*:\s*"(red|blue)"\s*\}', told["choices"][0]["message"]["content"]
    )
    assert [answer.status_code for answer in refused] == [404, 404]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unary"])
def test_leaving_stops_the_generation(llama: Live, stream: bool) -> None:
    [port] = listed(llama)
    assert wait_for(lambda: running_calls(port) == 0, 60)
    story = [{"role": "user", "content": "Tell a very long story about the sea."}]
    call = body("base", stream=stream, max_tokens=STORY, messages=story, ignore_eos=True)
    leave, told = threading.Event(), predicted(port)

    def ask() -> None:
        with llama.http() as http, http.stream("POST", CHAT, json=call, timeout=60):
            leave.wait(30)

    if stream:
        thread = threading.Thread(target=ask)
        thread.start()
        assert wait_for(lambda: running_calls(port) == 1, 20)
        leave.set()
        thread.join()
    else:
        with llama.http() as http, pytest.raises(httpx.ReadTimeout):
            http.post(CHAT, json=call, timeout=httpx.Timeout(60, read=1.5))
    assert wait_for(lambda: running_calls(port) == 0, 20), "the worker still generates"
    assert predicted(port) - told < STORY


async def test_a_new_version_comes_under_streams_without_a_failed_call(llama: Live) -> None:
    before, failed, seen = listed(llama), list[str](), set[str]()
    over = asyncio.Event()

    async def keep_asking(model: str) -> None:
        async with llama.async_client() as client:
            while not over.is_set():
                try:
                    stream = await client.chat.completions.create(**body(model), stream=True)
                    said = [chunk async for chunk in stream]
                except Exception as error:
                    failed.append(repr(error))
                    continue
                seen.update(chunk.model for chunk in said)
                if not any(c.choices and c.choices[0].finish_reason for c in said):
                    failed.append(f"broken off: {said}")

    async with asyncio.TaskGroup() as group:
        for at in range(STREAMS):
            group.create_task(keep_asking(("support@1", "support@2", "base")[at % 3]))
        try:
            number = await asyncio.to_thread(register_another, llama)
            for done in (
                lambda: proven(llama, number),
                lambda: listed(llama).isdisjoint(before),
                lambda: set(servers(llama)) == listed(llama),
            ):
                assert await asyncio.to_thread(wait_for, done, 150, 0.5), effects(llama)
        finally:
            over.set()
    assert failed == []
    assert {"support@1", "support@2", "base@0"} <= seen
    assert await asyncio.to_thread(text, llama, f"support@{number}") == text(llama, "support@2")


def register_another(live: Live) -> int:
    """Register the second version's weights again, under a manifest of their own."""
    [digest] = [v["sha256"] for v in live.adapter("support")["versions"] if v["version"] == 2]
    folder = live.home / "storage" / "adapters" / digest
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["manifest.json"] += b"\n"
    with live.admin() as admin:
        answer = admin.post(
            "/admin/v1/adapters/support/versions", files=[("files", one) for one in files.items()]
        )
    assert answer.status_code == 201, answer.text
    return int(answer.json()["version"])


def test_a_killed_llama_server_is_back_with_its_adapters(llama: Live) -> None:
    [process] = servers(llama).values()
    process.kill()
    killed = time.monotonic()
    with llama.http() as http:
        answer = http.post(CHAT, json=body("support@1"))
        while answer.status_code != 200 and time.monotonic() - killed < 120:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            answer = http.post(CHAT, json=body("support@1"))
    assert answer.status_code == 200, answer.text
    assert [one.pid for one in servers(llama).values()] != [process.pid]
    assert wait_for(lambda: proven(llama, len(effects(llama))), 120, 0.5), effects(llama)


def test_no_llama_server_outlives_a_killed_keeper(llama: Live) -> None:
    old = servers(llama)
    found = keepers(llama)
    assert found
    for keeper in found:
        keeper.kill()
    assert wait_for(lambda: not any(process.is_running() for process in old.values()), 30)
    assert wait_for(lambda: bool(servers(llama)), 60, 0.5)
    assert wait_for(lambda: proven(llama, len(effects(llama))), 120, 0.5), effects(llama)
    assert text(llama, "support@1")
