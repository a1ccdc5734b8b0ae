"""A base in four bits on a vLLM of its own, beside the base itself; QUANTISED=awq: not GPTQ."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator

import httpx
import openai
import pytest

from .beside import base_model, known_as, worker_beside
from .conftest import REPOSITORY, SMALL, SMALL_MODEL
from .live import Live, wait_for
from .quantise import quantise

METHOD = os.environ.get("QUANTISED", "gptq")
ROUTABLE = {"effective", "undecidable"}
ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def quantised(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM with the quantised base, which the registry does not know yet."""
    model = tmp_path_factory.mktemp("quantised") / SMALL_MODEL
    quantise(base_model(live), model, METHOD)
    with worker_beside(live, model, dtype="bfloat16") as url:  # neither method takes float32
        yield url


def placed(live: Live, alias: str, number: int) -> dict[str, str]:
    """What the proofs of a version said that count now, by worker."""
    [version] = [one for one in live.adapter(alias)["versions"] if one["version"] == number]
    return {one["worker"]: one["effect"] for one in version["placements"] if one["current"]}


def both_placed(live: Live, on: set[str]) -> bool:
    told = [placed(live, live.alias, number) for number in (1, 2)]
    return all(set(one) == on and set(one.values()) <= ROUTABLE for one in told)


def answers(url: str) -> float:
    """How many requests for more than ten tokens the worker has answered: no proof makes those."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    name = "vllm:request_params_max_tokens"
    [every] = re.findall(rf"^{name}_count\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    [short] = re.findall(rf'^{name}_bucket\{{[^}}]*le="10.0"[^}}]*\}} (\S+)$', text, re.MULTILINE)
    return float(every) - float(short)


def local_url(live: Live) -> str:
    with live.admin() as admin:
        listed = admin.get("/admin/v1/workers").json()["data"]
    return next(str(one["url"]) for one in listed if one["name"] == "local")


async def ask(client: openai.AsyncOpenAI, model: str, user: str = "u") -> str:
    answer = await client.chat.completions.create(
        model=model, messages=ASK, max_tokens=16, temperature=0, user=user
    )
    assert answer.choices[0].message.content
    return str(answer.choices[0].message.content)


def support_on(url: str) -> list[str]:
    cards = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
    return [card["id"] for card in cards if card["id"].startswith("support@")]


def register(live: Live, alias: str) -> None:
    """Register the first shipped adapter's weights as made for the quantised base.

    Without a fingerprint: what they give on the base that is served becomes the reference.
    """
    shipped = REPOSITORY / "deploy" / "examples" / "acme" / "adapters" / "support-1"
    config = json.loads((shipped / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = SMALL_MODEL
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": (shipped / "adapter_model.safetensors").read_bytes(),
    }
    with live.admin() as admin:
        sent = [("files", one) for one in files.items()]
        answer = admin.post(f"/admin/v1/adapters/{alias}/versions", files=sent)
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="class")
def both(live: Live, quantised: str) -> Iterator[None]:
    """Both workers hold both adapters, proven as far as the quantised base allows it."""
    with known_as(live, "quantised", quantised, "base"):
        there = {"local", "quantised"}
        assert wait_for(lambda: both_placed(live, there), 180, 0.5), live.adapter(live.alias)
        yield


@pytest.mark.usefixtures("both")
class TestNamedAsTheSameBase:
    async def test_calls_go_to_both_workers(self, live: Live, quantised: str) -> None:
        urls = [quantised, local_url(live)]

        async def burst() -> list[float]:
            """Ask more at once than one worker gets while the other has none; who answered."""
            before = [answers(url) for url in urls]
            async with live.async_client() as client:
                asked = (ask(client, "support@2", f"u-{n}") for n in range(16))
                told = await asyncio.gather(*asked)
            counts = [answers(url) - was for url, was in zip(urls, before, strict=True)]
            assert sum(counts) == len(told)
            return counts

        # The gateway hears of a proof a moment after the registry, which was asked until now.
        counts, until = await burst(), time.monotonic() + 30
        while min(counts) == 0 and time.monotonic() < until:
            counts = await burst()
        assert min(counts) > 0

    async def test_adapters_change_what_the_quantised_base_answers(self, quantised: str) -> None:
        """Asked of the worker itself, so that no other one answers."""
        names = ["base@0", *support_on(quantised)]
        async with httpx.AsyncClient(base_url=quantised, timeout=180) as worker:
            body = {"messages": ASK, "max_tokens": 16, "temperature": 0}
            said = [
                (await worker.post(CHAT, json={"model": name, **body})).json() for name in names
            ]
        texts = {one["choices"][0]["message"]["content"] for one in said}
        assert len(texts) == len(names) == 3


async def test_named_apart_each_version_is_only_on_its_own_base(live: Live, quantised: str) -> None:
    with known_as(live, "quantised", quantised, SMALL):
        register(live, "desk")
        alone = {"quantised": "effective"}
        assert await asyncio.to_thread(
            wait_for, lambda: placed(live, "desk", 1) == alone, 120, 0.5
        ), live.adapter("desk")
        assert await asyncio.to_thread(wait_for, lambda: both_placed(live, {"local"}), 60, 0.5)
        assert await asyncio.to_thread(wait_for, lambda: not support_on(quantised), 60, 0.5)
        before = answers(quantised)
        async with live.async_client() as client:
            told = {model: await ask(client, model) for model in (SMALL, "desk@1")}
            assert answers(quantised) == before + len(told)
            told |= {model: await ask(client, model) for model in ("base", "support@1")}
        assert answers(quantised) == before + 2
    assert len(set(told.values())) == len(told)
    with live.admin() as admin:
        assert admin.post("/admin/v1/adapters/desk/versions/1/retire", json={}).is_success
