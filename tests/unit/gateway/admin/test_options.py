"""Options of aliases, and files of versions, over the admin API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.options import OptionsBody
from gateway.registry.service import Registry
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.settings import Limits
from tests.unit.gateway.registry.adapter_files import write_adapter

from .conftest import Clients, upload

OPTIONS = "/adapters/support/options"


@pytest.fixture(autouse=True)
def support(registry: Registry, tmp_path: Path) -> Path:
    """An alias with one version."""
    folder = write_adapter(tmp_path / "a", manifest={"training": {"run": 1}})
    registry.register("default", "support", folder)
    return folder


async def test_put_replaces_all(admin: httpx.AsyncClient, app: FastAPI) -> None:
    given: dict[str, Any] = {"temperature": 0.2, "stop": ["END"], "fallback": ["base"]}
    answer = await admin.put(OPTIONS, json=given)
    assert answer.status_code == 200, answer.text
    found = (await admin.get(OPTIONS)).json()
    assert {name: value for name, value in found.items() if value not in (None, [])} == given
    assert (await admin.put(OPTIONS, json=found)).json() == found  # read, changed, put back
    told = (await admin.get("/adapters/support")).json()
    assert told["options"] == given
    assert [(e["kind"], e["detail"]["after"]) for e in told["events"]] == [("options", given)]
    held = app.state.serving.snapshot.aliases["default", "support"]
    assert held.options.given == given
    await admin.put(OPTIONS, json={"seed": 7, "logprobs": "off"})
    told = (await admin.get("/adapters/support")).json()
    assert told["options"] == {"seed": 7, "logprobs": 0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 1.5}, "logprobs"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"system_prompt": ""}, "system_prompt"),
        ({"system_prompt": "nul\0"}, "system_prompt"),
        ({"lora_path": "/etc"}, "lora_path"),
        ({"fallback": ["support"]}, "fallback"),
        ({"fallback": ["base"] * 5}, "fallback"),
        ({"min_tokens": 5, "max_tokens": 4}, "body"),
    ],
)
async def test_mistakes_are_named(
    admin: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await admin.put(OPTIONS, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert (await admin.get("/adapters/support")).json()["options"] == {}


async def test_who_may(admin: httpx.AsyncClient, clients: Clients) -> None:
    trainer, app = await clients("trainer"), await clients("app")
    stranger = await clients("admin", aliases=["triage"])
    assert (await trainer.get(OPTIONS)).status_code == 200
    assert (await trainer.put(OPTIONS, json={})).status_code == 403
    assert (await app.get(OPTIONS)).status_code == 403
    assert (await stranger.put(OPTIONS, json={})).status_code == 404
    assert (await admin.put("/adapters/base/options", json={})).status_code == 409
    assert (await admin.get("/adapters/nothing/options")).status_code == 404


async def test_files_come_back_as_they_were(
    admin: httpx.AsyncClient, clients: Clients, support: Path
) -> None:
    path = "/adapters/support/versions/1/files/"
    for client in (admin, await clients("trainer")):
        for _, (name, content) in upload(support):
            answer = await client.get(path + name)
            assert (answer.status_code, answer.content) == (200, content)
    for wrong in (
        path + "model.bin",
        path + "..%2f..%2fadapterloop.db",
        "/adapters/support/versions/2/files/manifest.json",
        "/adapters/base/versions/0/files/manifest.json",
    ):
        assert (await admin.get(wrong)).status_code == 404, wrong
    for role, status in (("reviewer", 403), ("app", 403)):
        assert (await (await clients(role)).get(path + "manifest.json")).status_code == status
    stranger = await clients("trainer", aliases=["triage"])
    assert (await stranger.get(path + "manifest.json")).status_code == 404
    other = await clients("admin", tenant="other")
    assert (await other.get(path + "manifest.json")).status_code == 404


_SAMPLING = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "max_tokens": st.integers(1, 4096),
    "stop": st.one_of(st.just("END"), st.lists(st.just("x"), min_size=1, max_size=3)),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "top_k": st.integers(-1, 1000),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.1, 10),
    "min_tokens": st.just(0),
    "ignore_eos": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional=_SAMPLING))
def test_what_may_be_a_default_may_be_sent(given: dict[str, Any]) -> None:
    sampling = OptionsBody(**given).options.sampling
    assert sampling == given
    for form, more in (
        (ChatForm(), {"messages": [{"role": "user", "content": "x"}]}),
        (CompletionForm(), {"prompt": "x"}),
    ):
        read = form.read(msgspec.json.encode({"model": "m", **more, **sampling}), Limits())
        assert {name: getattr(read.request, name) for name in sampling} == sampling
