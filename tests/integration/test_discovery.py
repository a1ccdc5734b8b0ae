"""Workers that are found: a name that really resolves, and a controller that takes them up."""

from __future__ import annotations

import pytest

from gateway.settings import WorkerSettings
from gateway.workers.discovery import Dns, LookupFailed
from tests.stub.server import StubWorker

from .conftest import MakeStack


async def test_a_name_gives_its_addresses() -> None:
    assert ("127.0.0.1", 8001) in await Dns("localhost", 8001).find()


async def test_a_name_that_leads_nowhere_fails() -> None:
    with pytest.raises(LookupFailed, match="name"):
        await Dns("no name", 8001).find()


def test_a_worker_behind_a_name_is_loaded_and_answers(make_stack: MakeStack) -> None:
    with StubWorker() as stub:
        entry = WorkerSettings(name="gpu", url=f"dns+http://localhost:{stub.port}")
        stack = make_stack((entry,))
        stack.publish("support", stack.source("support-1", seed=1))
        assert stack.routable("support")
        with stack.live.admin() as admin:
            workers = admin.get("/admin/v1/workers").json()["data"]
    assert "gpu@127.0.0.1" in {worker["name"] for worker in workers if worker["healthy"]}
    assert stub.seen.loads
