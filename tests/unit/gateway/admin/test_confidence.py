"""The report on confidence over the admin API."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from gateway.registry.service import Registry
from tests.unit.gateway.registry.adapter_files import write_adapter

from .conftest import Clients
from .loop import answered


async def test_of_an_alias_that_the_key_sees(
    app: FastAPI, clients: Clients, registry: Registry, tmp_path: Path
) -> None:
    registry.register("default", "support", write_adapter(tmp_path / "a"))
    for number, verdict in enumerate(("correct", "wrong"), 1):
        answered(app, number, confidence_mean=-number / 10, confidence_min=-1.0)
        admin = await clients()
        (item,) = (await admin.get("/review")).json()["data"]
        await admin.post(f"/review/{item['id']}", json={"verdict": verdict})
    reader = await clients("trainer")
    told = (await reader.get("/confidence/support")).json()
    assert (told["alias"], told["method"], told["labels"]) == ("support", "mean", {"flagged": 2})
    assert (told["auroc"], told["auroc_minimum"], told["brier"]) == (1.0, 0.5, None)
    assert told["risk_coverage"][0] == {"coverage": 0.1, "risk": 0.0}
    assert told["missed"] is None
    assert told["review"] == {
        "budget": 100,
        "seen": 0,
        "doubtful": 0,
        "audited": 0,
        "threshold": None,
    }
    for stranger in (await clients(tenant="other"), await clients(aliases=["facts"])):
        assert (await stranger.get("/confidence/support")).status_code == 404
    assert (await reader.get("/confidence/nobodys")).status_code == 404
