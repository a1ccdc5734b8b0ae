"""Who is let in: keys while the store is away, calls past the bound, bodies past theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.gateway.whole import Whole

CHAT = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    whole = Whole(tmp_path)
    yield whole
    whole.close()


async def test_a_key_is_called_wrong_only_while_the_store_can_tell(whole: Whole) -> None:
    """It may have been made since the store was last heard; those that are known go on."""
    known = await whole.key()
    whole.app.state.serving.keeper.store_up = False
    for path in ("/v1/models", "/admin/v1/adapters", "/v1/feedback/chatcmpl-1"):
        async with whole.client("sk-al-made-meanwhile") as client:
            answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0
    async with whole.client(known) as client:
        assert (await client.get("/v1/models")).status_code == 200
    async with whole.client() as client:
        assert (await client.get("/v1/models")).status_code == 401
    whole.app.state.serving.keeper.store_up = True
    async with whole.client("sk-al-made-meanwhile") as client:
        assert (await client.get("/v1/models")).status_code == 401


async def test_calls_past_the_bound_are_told_to_come_again(whole: Whole) -> None:
    serving, secret = whole.app.state.serving, await whole.key()
    serving.in_flight = most = serving.settings.limits.max_in_flight
    async with whole.client(secret) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) > 0
        assert serving.in_flight == most
        serving.in_flight = most - 1
        unknown = await client.post("/v1/chat/completions", json=CHAT | {"model": "nobodys"})
        assert unknown.status_code == 404
    assert serving.in_flight == most - 1


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_past_its_bound_is_not_read(whole: Whole, path: str) -> None:
    most = whole.app.state.serving.settings.limits.max_body_bytes
    async with whole.client(await whole.key()) as client:
        answer = await client.post(path, content=b"x" * (most + 1))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert (await client.post(path, content=b"x" * most)).status_code == 400


async def test_moderations_take_no_more_texts_than_embeddings(whole: Whole) -> None:
    """Each makes an answer a hundred times its length."""
    most = whole.app.state.serving.settings.limits.max_inputs
    async with whole.client(await whole.key()) as client:
        answer = await client.post("/v1/moderations", json={"input": [""] * (most + 1)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"
    assert f"at most {most} texts" in answer.json()["error"]["message"]
