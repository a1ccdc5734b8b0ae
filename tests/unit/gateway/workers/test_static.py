"""Servers whose adapters are declared, and the key that some of them want."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest
from aiohttp import web

from gateway.registry.snapshot import WorkerOptions, WorkerSpec
from gateway.workers.admin import Ask
from gateway.workers.errors import UnsupportedKind, WorkerUnreachable
from gateway.workers.exchange import Card, Exchange
from gateway.workers.kinds import make_admin
from gateway.workers.static import by_name, by_request, held
from tests.unit.gateway.workers.conftest import Answers


def test_the_only_model_that_nothing_else_explains_is_the_base() -> None:
    cards = [Card("qwen"), Card("my-lora"), Card("a@1-0000000a")]
    models = held(cards, {"support@3": "my-lora"}, by_name)
    assert [(m.name, m.ask, m.is_base) for m in models] == [
        ("qwen", Ask("qwen"), True),
        ("a@1-0000000a", Ask("a@1-0000000a"), False),
        ("support@3", Ask("my-lora"), False),
    ]


def test_among_many_models_the_base_is_the_declared_one_or_none() -> None:
    cards = [Card("large"), Card("small"), Card("my-lora", parent="small")]
    assert not [m for m in held(cards, {"support@3": "my-lora"}, by_name) if m.is_base]
    [base] = held(cards, {"base": "small"}, by_name)
    assert (base.name, base.is_base) == ("small", True)


def test_tensorrt_is_told_the_folder_and_a_number_of_its_own() -> None:
    declared = {"a@1": "/adapters/a", "b@1": "/adapters/b"}
    base, a, b = held([Card("llama")], declared, by_request)
    assert base.ask == Ask("llama")
    asks = [m.ask for m in (a, b) if m.ask is not None]
    assert {ask.model for ask in asks} == {"llama"}
    requests = [msgspec.json.decode(ask.more)["lora_request"] for ask in asks]
    assert [request["lora_path"] for request in requests] == ["/adapters/a", "/adapters/b"]
    numbers = {request["lora_int_id"] for request in requests}
    assert len(numbers) == 2
    assert all(0 <= number < 2**31 for number in numbers)


def keyed(session: aiohttp.ClientSession, answers: Answers, kind: str = "openai") -> Exchange:
    async def models(request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != "Bearer secret":
            return web.json_response({"error": {"message": "Incorrect key"}}, status=401)
        return web.json_response({"data": [{"id": "m"}]})

    answers["/v1/models"] = models
    spec = WorkerSpec("w", "http://w", kind, WorkerOptions(api_key_env="SOME_KEY"))
    return Exchange(spec, session)


async def test_the_key_comes_from_the_environment(
    session: aiohttp.ClientSession, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = keyed(session, answers)
    monkeypatch.setenv("SOME_KEY", " secret\n")
    assert [card.id for card in await exchange.cards()] == ["m"]
    monkeypatch.setenv("SOME_KEY", "another")
    with pytest.raises(WorkerUnreachable, match="401 Incorrect key"):
        await exchange.cards()


async def test_a_key_that_is_not_set_is_named(
    session: aiohttp.ClientSession, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = keyed(session, answers)
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(WorkerUnreachable, match="SOME_KEY"):
        await exchange.cards()


@pytest.mark.parametrize(
    ("kind", "loads", "forces"),
    [
        ("vllm", True, True),
        ("llamacpp", False, True),
        ("tensorrt_llm", False, False),
        ("openai", False, False),
    ],
)
async def test_kinds_say_what_they_can(
    session: aiohttp.ClientSession, kind: str, loads: bool, forces: bool
) -> None:
    can = make_admin(WorkerSpec("w", "http://w", kind), session).capabilities
    assert (can.runtime_load, can.forced_tokens) == (loads, forces)


async def test_an_unknown_kind_names_the_known_ones(session: aiohttp.ClientSession) -> None:
    with pytest.raises(UnsupportedKind, match="vllm, llamacpp, tensorrt_llm, openai"):
        make_admin(WorkerSpec("w", "http://w", "triton"), session)
