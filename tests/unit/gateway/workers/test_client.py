"""vLLM's HTTP as it really answers, over a Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.registry.snapshot import WorkerSpec
from gateway.workers.client import (
    ServedModel,
    VllmAdmin,
    WorkerMetrics,
    make_admin,
    parse_metrics,
)
from gateway.workers.errors import (
    LoadRefused,
    MeasureFailed,
    NameTaken,
    UnsupportedKind,
    WorkerSlow,
    WorkerUnreachable,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answers = dict[str, Handler]

METRICS = b"""# HELP process_start_time_seconds Start time
process_start_time_seconds 1.79541e+09
vllm:num_requests_running{engine="0",model_name="b}ase"} 2.0
vllm:num_requests_running{engine="1",model_name="base"} 3.0
vllm:num_requests_waiting{engine="0",model_name="base"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
"""


def test_metrics_are_summed_over_engines() -> None:
    assert parse_metrics(METRICS) == WorkerMetrics("1795410000.00", 5, 4, 0.5)


def test_metrics_that_say_nothing_are_empty() -> None:
    assert parse_metrics(b"python_info 1.0\nvllm:num_requests_running nonsense\n") == (
        WorkerMetrics()
    )


@pytest.fixture
def answers() -> Answers:
    return {}


@pytest.fixture
async def admin(answers: Answers, tmp_path: Path) -> AsyncIterator[VllmAdmin]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await answers[request.path](request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "w.sock")).start()
    connector = aiohttp.UnixConnector(str(tmp_path / "w.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield VllmAdmin(WorkerSpec("w", "http://worker/"), session, timeout=0.3, work_timeout=0.3)
    await runner.cleanup()


def says(status: int, body: object, seen: list[object] | None = None) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if seen is not None:
            seen.append(await request.json())
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)

    return answer


def error(message: str, status: int) -> Handler:
    return says(status, {"error": {"message": message, "type": "x", "code": status}})


MODELS = {
    "object": "list",
    "data": [
        {"id": "base@0", "root": "/m", "parent": None, "permission": []},
        {"id": "a@1-00000001", "root": "/adapters/1", "parent": "base@0"},
    ],
}


async def test_models_tell_base_and_adapters_apart(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/models"] = says(200, MODELS)
    assert await admin.models() == (
        ServedModel("base@0", "/m", None),
        ServedModel("a@1-00000001", "/adapters/1", "base@0"),
    )


async def test_load_is_plain_text_and_never_in_place(admin: VllmAdmin, answers: Answers) -> None:
    seen: list[object] = []
    answers["/v1/load_lora_adapter"] = says(200, "Success: LoRA adapter added.", seen)
    await admin.load("a@1-00000001", "/adapters/1")
    assert seen == [{"lora_name": "a@1-00000001", "lora_path": "/adapters/1"}]


async def test_present_name_with_our_path_is_a_success(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/load_lora_adapter"] = error("has already been loaded", 400)
    answers["/v1/models"] = says(200, MODELS)
    await admin.load("a@1-00000001", "/adapters/1")


async def test_present_name_with_other_files_is_not(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/load_lora_adapter"] = error("has already been loaded", 400)
    answers["/v1/models"] = says(200, MODELS)
    with pytest.raises(NameTaken, match="/adapters/1"):
        await admin.load("a@1-00000001", "/adapters/2")


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_refused_load_gives_the_workers_words(
    admin: VllmAdmin, answers: Answers, status: int
) -> None:
    answers["/v1/load_lora_adapter"] = error("rank 64 is too large", status)
    answers["/v1/models"] = says(200, MODELS)
    with pytest.raises(LoadRefused, match="rank 64 is too large"):
        await admin.load("b@1-00000002", "/adapters/2")


async def test_worker_that_is_starting_is_unreachable(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/load_lora_adapter"] = error("starting", 503)
    with pytest.raises(WorkerUnreachable):
        await admin.load("b@1-00000002", "/adapters/2")


async def test_unload_of_an_unknown_name_is_a_success(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/unload_lora_adapter"] = error("cannot be found", 404)
    await admin.unload("a@1-00000001")


async def test_unload_that_fails_is_told(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/unload_lora_adapter"] = error("oops", 500)
    with pytest.raises(WorkerUnreachable, match="oops"):
        await admin.unload("a@1-00000001")


async def test_slow_worker_is_told_from_a_dead_one(admin: VllmAdmin, answers: Answers) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    answers["/health"] = never
    with pytest.raises(WorkerSlow):
        await admin.health()


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    connector = aiohttp.UnixConnector(str(tmp_path / "nobody.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        admin = VllmAdmin(WorkerSpec("w", "http://worker"), session)
        with pytest.raises(WorkerUnreachable):
            await admin.models()


async def test_health_and_metrics(admin: VllmAdmin, answers: Answers) -> None:
    answers["/health"] = says(503, "")
    answers["/metrics"] = says(200, METRICS.decode())
    assert not await admin.health()
    assert (await admin.metrics()).running == 5
    answers["/metrics"] = says(404, "")
    assert await admin.metrics() == WorkerMetrics()


async def test_model_list_that_is_no_json(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/models"] = says(200, "<html>")
    with pytest.raises(WorkerUnreachable, match="cannot be read"):
        await admin.models()


def scored(*entries: dict[str, object] | None) -> Handler:
    return says(200, {"choices": [{"text": "x", "prompt_logprobs": list(entries)}]})


async def test_prompt_logprobs_pick_the_prompts_own_tokens(
    admin: VllmAdmin, answers: Answers
) -> None:
    answers["/v1/completions"] = scored(
        None,
        {"9": {"logprob": -1.0, "rank": 1}, "7": {"logprob": -2.5, "rank": 3}},
        {"8": {"logprob": -0.5, "rank": 1}},
    )
    assert await admin.prompt_logprobs("m", [5, 7, 8]) == [None, -2.5, -0.5]


async def test_prompt_logprobs_must_cover_the_prompt(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/completions"] = scored(None)
    with pytest.raises(MeasureFailed):
        await admin.prompt_logprobs("m", [5, 7])
    answers["/v1/completions"] = says(200, {"choices": [{"text": "x", "prompt_logprobs": None}]})
    with pytest.raises(MeasureFailed):
        await admin.prompt_logprobs("m", [5, 7])


async def test_unknown_kind_names_the_known_ones() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(UnsupportedKind, match="vllm"):
            make_admin(WorkerSpec("w", "http://w", "llamacpp"), session)
