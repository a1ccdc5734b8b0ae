"""llama-server's HTTP, as its documentation and sources have it."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from gateway.registry.snapshot import WorkerOptions, WorkerSpec
from gateway.workers.admin import Ask, WorkerMetrics
from gateway.workers.errors import LoadRefused, MeasureFailed, WorkerUnreachable
from gateway.workers.exchange import Exchange
from gateway.workers.llamacpp import LlamaCppAdmin
from tests.unit.gateway.workers.conftest import Answers, Handler


def says(body: object, status: int = 200, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(text=body, status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return answer


@pytest.fixture
def admin(session: aiohttp.ClientSession, answers: Answers) -> LlamaCppAdmin:
    answers["/v1/models"] = says({"object": "list", "data": [{"id": "tiny.gguf", "meta": {}}]})
    answers["/lora-adapters"] = says(
        [
            {"id": 0, "path": "/loras/support.v2@7-1a2b3c4d.gguf", "scale": 1.0},
            {"id": 1, "path": "C:\\loras\\tickets.gguf", "scale": 1.0},
        ]
    )
    spec = WorkerSpec("w", "http://w", "llamacpp", WorkerOptions(models=(("triage@3", "tickets"),)))
    return LlamaCppAdmin(Exchange(spec, session))


async def test_adapters_go_by_the_stem_of_their_file_or_by_what_is_declared(
    admin: LlamaCppAdmin,
) -> None:
    models = await admin.models()
    assert [(m.name, m.parent) for m in models] == [
        ("tiny.gguf", None),
        ("support.v2@7-1a2b3c4d", "tiny.gguf"),
        ("triage@3", "tiny.gguf"),
    ]


async def test_every_request_tells_every_scale(admin: LlamaCppAdmin) -> None:
    """An adapter given with --lora applies to whatever does not speak of it, the base too."""
    asks = [m.ask for m in await admin.models() if m.ask is not None]
    scales = [[e["scale"] for e in msgspec.json.decode(ask.more)["lora"]] for ask in asks]
    assert scales == [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


async def test_prompts_are_read_anew_unless_the_server_says_that_it_mixes_none_up(
    admin: LlamaCppAdmin, answers: Answers
) -> None:
    """Its cache in RAM would give one adapter the state that it has kept of another."""

    async def told() -> list[object]:
        asks = [m.ask for m in await admin.models() if m.ask is not None]
        return [msgspec.json.decode(ask.more).get("cache_prompt") for ask in asks]

    assert await told() == [False, False, False]
    card = {"id": "base@0", "aliases": ["base@0", "cache-ram-0"]}
    answers["/v1/models"] = says({"data": [card]})
    assert await told() == [None, None, None]


async def test_a_server_without_adapters_is_asked_without_scales(
    admin: LlamaCppAdmin, answers: Answers
) -> None:
    answers["/lora-adapters"] = says([])
    [base] = await admin.models()
    assert base.ask == Ask("tiny.gguf")


async def test_it_is_not_ready_while_the_model_is_read(
    admin: LlamaCppAdmin, answers: Answers
) -> None:
    answers["/health"] = says({"error": {"code": 503, "message": "Loading model"}}, 503)
    assert not await admin.health()
    answers["/health"] = says({"status": "ok"})
    assert await admin.health()


async def test_the_metrics_header_tells_boots_apart(admin: LlamaCppAdmin, answers: Answers) -> None:
    text = "# HELP x\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n"
    answers["/metrics"] = says(text, **{"Process-Start-Time-Unix": "1795410000"})
    assert await admin.metrics() == WorkerMetrics("1795410000", 2, 3)
    answers["/metrics"] = says({"error": {"message": "not supported"}}, 501)
    assert await admin.metrics() == WorkerMetrics()


def scores(seen: list[dict[str, Any]]) -> Handler:
    """Says the token that is forced, with a tenth of its number as the logprob."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append(body)
        [[token, _]] = body["logit_bias"]
        scored = {"id": token, "logprob": -token / 10, "token": "x", "top_logprobs": []}
        return web.json_response({"content": "x", "completion_probabilities": [scored]})

    return answer


async def test_each_token_is_forced_under_the_adapters_scales(
    admin: LlamaCppAdmin, answers: Answers
) -> None:
    seen: list[dict[str, Any]] = []
    answers["/completion"] = scores(seen)
    assert await admin.answer_logprobs("triage@3", [5, 6, 7, 8], 2) == [-0.7, -0.8]
    assert sorted(body["prompt"] for body in seen) == [[5, 6], [5, 6, 7]]
    assert all([e["scale"] for e in body["lora"]] == [0.0, 1.0] for body in seen)
    assert all(body["post_sampling_probs"] is False for body in seen)


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"completion_probabilities": []}, 200, MeasureFailed, "split a character"),
        ({"completion_probabilities": [{"id": 9, "logprob": -1}]}, 200, MeasureFailed, "token 9"),
        ({"completion_probabilities": [{"tok_str": "x"}]}, 200, MeasureFailed, "cannot be read"),
        ({"error": {"message": "no room"}}, 400, MeasureFailed, "no room"),
        ({"error": {"message": "Loading model"}}, 503, WorkerUnreachable, "Loading model"),
    ],
)
async def test_answers_without_the_forced_token_are_no_measurement(
    admin: LlamaCppAdmin,
    answers: Answers,
    body: object,
    status: int,
    kind: type[Exception],
    words: str,
) -> None:
    answers["/completion"] = says(body, status)
    with pytest.raises(kind, match=words):
        await admin.answer_logprobs("triage@3", [5, 7], 1)


async def test_what_is_not_listed_cannot_be_measured(admin: LlamaCppAdmin) -> None:
    with pytest.raises(MeasureFailed, match="lists no support@1"):
        await admin.answer_logprobs("support@1", [5, 7], 1)


async def test_nothing_is_loaded_later(admin: LlamaCppAdmin) -> None:
    with pytest.raises(LoadRefused, match="llamacpp"):
        await admin.load("a@1-00000001", "/adapters/1")
    with pytest.raises(LoadRefused, match="llamacpp"):
        await admin.unload("a@1-00000001")


async def test_a_list_of_adapters_that_is_none(admin: LlamaCppAdmin, answers: Answers) -> None:
    answers["/lora-adapters"] = says({"error": "x"})
    with pytest.raises(WorkerUnreachable, match="cannot be read"):
        await admin.models()
