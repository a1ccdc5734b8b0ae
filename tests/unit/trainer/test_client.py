from __future__ import annotations

import httpx
import pytest

from tests.unit.trainer.fake_gateway import FakeGateway
from trainer.client import AdminClient
from trainer.errors import GatewayAway, Refused


def client(gateway: FakeGateway, patience: float = 60.0) -> AdminClient:
    return AdminClient(
        "http://gateway",
        "sk-x",
        patience=patience,
        transport=gateway.transport,
        sleep=lambda s: None,
    )


def test_what_fails_in_passing_is_tried_again() -> None:
    gateway = FakeGateway()
    gateway.trouble = [httpx.ConnectError("refused"), 503, 429, 502]
    assert client(gateway).get("/adapters/base")["versions"][0]["version"] == 0
    assert gateway.trouble == []


def test_a_refusal_is_final_and_keeps_the_gateways_words() -> None:
    gateway = FakeGateway()
    with pytest.raises(Refused, match="no golden set") as refused:
        client(gateway).text("/golden/support")
    assert refused.value.status == 404


def test_a_gateway_that_stays_away_is_named() -> None:
    gateway = FakeGateway()
    gateway.trouble = [httpx.ConnectError("refused")] * 3
    with pytest.raises(GatewayAway, match="GET /adapters/base: ConnectError: refused"):
        client(gateway, patience=0).get("/adapters/base")


def test_an_empty_answer_is_none() -> None:
    body = {"holder": "me", "kinds": ["refresh"], "job_id": None}
    assert client(FakeGateway()).post("/jobs/claim", body) is None
