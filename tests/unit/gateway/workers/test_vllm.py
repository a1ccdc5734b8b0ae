"""vLLM's HTTP as it really answers, over a Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.registry.snapshot import WorkerSpec
from gateway.workers.admin import ServedModel, WorkerMetrics
from gateway.workers.errors import (
    LoadRefused,
    MeasureFailed,
    NameTaken,
    WorkerSlow,
    WorkerUnreachable,
)
from gateway.workers.exchange import Exchange
from gateway.workers.vllm import SCORED_AT_ONCE, VllmAdmin, parse_metrics
from tests.unit.gateway.workers.conftest import Answers, Handler

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


LORA = b"""vllm:lora_requests_info{max_lora="4",waiting_lora_adapters="",running_lora_adapters="a@1-1"} 1764000001.5
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b@1-2,c@1-3",waiting_lora_adapters="a@1-1"} 1764000002.5
vllm:lora_requests_info{max_lora="4",running_lora_adapters="d@1-4",waiting_lora_adapters=""} never
"""  # noqa: E501 (as vLLM writes it)


def test_the_newest_batch_tells_which_adapters_are_active() -> None:
    assert parse_metrics(LORA).active == {"b@1-2", "c@1-3"}
    idle = b'vllm:lora_requests_info{max_lora="4",running_lora_adapters=""} 1764000009.0\n'
    assert parse_metrics(LORA + idle).active == frozenset()


def sleep_state(awake: int) -> bytes:
    return "".join(
        f'vllm:engine_sleep_state{{engine="{engine}",model_name="b",sleep_state="{state}"}} {on}\n'
        for engine in (0, 1)
        for state, on in (("awake", float(awake or not engine)), ("discard_all", 0.0))
    ).encode()


def test_one_engine_that_sleeps_is_enough() -> None:
    assert parse_metrics(METRICS + sleep_state(0)).asleep
    assert not parse_metrics(METRICS + sleep_state(1)).asleep


def test_a_boot_ends_with_a_sleep_however_short() -> None:
    def after(slept: int) -> str | None:
        name = "vllm:sleep_mode_operation_duration_seconds"
        counted = "".join(
            f'{name}_{what}{{operation="{operation}"}} {count}\n'
            for operation, count in (("sleep", float(slept)), ("wake", 7.0))
            for what in ("sum", "count")
        )
        return parse_metrics(METRICS + sleep_state(1) + counted.encode()).boot

    assert [after(0), after(1), after(2)] == ["1795410000.00", "1795410000.00+1", "1795410000.00+2"]


def test_metrics_that_say_nothing_are_empty() -> None:
    assert parse_metrics(b"python_info 1.0\nvllm:num_requests_running nonsense\n") == (
        WorkerMetrics()
    )


@pytest.mark.parametrize("figure", [b"NaN", b"+Inf", b"1e999"])
def test_a_figure_that_is_no_number_is_left_out(figure: bytes) -> None:
    told = METRICS + b"vllm:num_requests_running " + figure + b"\n"
    assert parse_metrics(told) == parse_metrics(METRICS)


@pytest.fixture
def admin(session: aiohttp.ClientSession) -> VllmAdmin:
    return VllmAdmin(Exchange(WorkerSpec("w", "http://worker/"), session))


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


async def test_present_name_with_our_files_elsewhere_is_a_success(
    admin: VllmAdmin, answers: Answers
) -> None:
    digest = "ab" * 32
    card = {"id": "a@1-abababab", "root": f"/cache/adapters/{digest}", "parent": "base@0"}
    answers["/v1/load_lora_adapter"] = error("has already been loaded", 400)
    answers["/v1/models"] = says(200, {"data": [card]})
    await admin.load("a@1-abababab", f"s3://bucket/loop/adapters/{digest}")


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
    with pytest.raises(WorkerUnreachable, match="503 starting"):
        await admin.load("b@1-00000002", "/adapters/2")


async def test_unload_of_an_unknown_name_is_a_success(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/unload_lora_adapter"] = error("cannot be found", 404)
    await admin.unload("a@1-00000001")


async def test_unload_that_fails_is_told(admin: VllmAdmin, answers: Answers) -> None:
    answers["/v1/unload_lora_adapter"] = error("oops", 500)
    with pytest.raises(WorkerUnreachable, match="oops"):
        await admin.unload("a@1-00000001")


async def test_slow_worker_is_told_from_a_dead_one(
    session: aiohttp.ClientSession, answers: Answers
) -> None:
    admin = VllmAdmin(Exchange(WorkerSpec("w", "http://worker/"), session, timeout=0.3))

    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    answers["/health"] = never
    with pytest.raises(WorkerSlow):
        await admin.health()


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    connector = aiohttp.UnixConnector(str(tmp_path / "nobody.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        admin = VllmAdmin(Exchange(WorkerSpec("w", "http://worker"), session))
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


def forced(seen: list[dict[str, Any]], *, status: int = 200) -> Handler:
    """Answers with the token that is forced, and a tenth of its number as the logprob."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        [token] = body["allowed_token_ids"]
        if token == 99:
            return web.json_response({"error": {"message": "bad token"}}, status=status)
        logprobs = {"tokens": [f"token_id:{token}"], "token_logprobs": [-token / 10]}
        return web.json_response({"choices": [{"text": "x", "logprobs": logprobs}]})

    return answer


async def test_each_token_of_the_answer_is_forced_after_what_precedes_it(
    admin: VllmAdmin, answers: Answers
) -> None:
    seen: list[dict[str, Any]] = []
    answers["/v1/completions"] = forced(seen)
    ids = [5, 1, *range(10, 20)]
    assert await admin.answer_logprobs("m", ids, 2) == [-token / 10 for token in ids[2:]]
    asked = {(tuple(body["prompt"]), body["allowed_token_ids"][0]) for body in seen}
    assert asked == {(tuple(ids[:at]), ids[at]) for at in range(2, len(ids))}
    assert {body["model"] for body in seen} == {"m"}
    assert len({body["cache_salt"] for body in seen}) == 1
    # Either field would harm the calls that share the batch.
    assert not any({"prompt_logprobs", "logprob_token_ids"} & set(body) for body in seen)
    await admin.answer_logprobs("m", ids, 2)
    assert len({body["cache_salt"] for body in seen}) == 2


async def test_few_tokens_are_scored_at_once(admin: VllmAdmin, answers: Answers) -> None:
    running = most = 0
    full = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == SCORED_AT_ONCE:
            full.set()
        await full.wait()
        await asyncio.sleep(0.01)
        running -= 1
        return await forced([])(request)

    answers["/v1/completions"] = answer
    await admin.answer_logprobs("m", range(20), 3)
    assert most == SCORED_AT_ONCE


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [{"logprobs": None}],
        [{"logprobs": {"tokens": ["token_id:8"], "token_logprobs": [-1.0]}}],
        [{"logprobs": {"tokens": ["token_id:7"], "token_logprobs": []}}],
        [{"logprobs": {"tokens": ["token_id:7"], "token_logprobs": [None]}}],
    ],
)
async def test_answers_without_the_forced_token_are_no_measurement(
    admin: VllmAdmin, answers: Answers, choices: list[object]
) -> None:
    answers["/v1/completions"] = says(200, {"choices": choices})
    with pytest.raises(MeasureFailed):
        await admin.answer_logprobs("m", [5, 7], 1)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, MeasureFailed), (404, MeasureFailed), (500, WorkerUnreachable)]
)
async def test_a_refused_token_ends_the_measurement(
    admin: VllmAdmin, answers: Answers, status: int, kind: type[Exception]
) -> None:
    answers["/v1/completions"] = forced([], status=status)
    with pytest.raises(kind, match="bad token"):
        await admin.answer_logprobs("m", [5, 6, 7, 99, 8], 1)
