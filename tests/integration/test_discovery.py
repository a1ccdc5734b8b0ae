"""Workers that are found: a name that really resolves, and a controller that takes them up."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import WorkerSettings
from gateway.workers.discovery import Dns
from gateway.workers.errors import LookupFailed
from gateway.workers.file_source import write_list
from tests.acceptance.live import wait_for
from tests.stub.script import Script
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


def test_a_worker_that_its_file_no_longer_lists_ends_the_calls_it_has(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    path = tmp_path / "workers.json"
    with StubWorker() as old, StubWorker() as new:
        old.script = Script(delay=0.1, text="one word after another " * 10)
        write_list(path, [("127.0.0.1", old.port)])
        stack = make_stack((WorkerSettings(name="local", url=f"file+{path}"),))

        def names() -> set[str]:
            with stack.live.admin() as admin:
                told = admin.get("/admin/v1/workers").json()["data"]
            return {worker["name"] for worker in told if worker["healthy"]}

        with stack.live.client() as client:
            ask = [{"role": "user", "content": "x"}]
            stream = client.chat.completions.create(model="base", messages=ask, stream=True)  # type: ignore[arg-type]
            first = next(iter(stream))
            write_list(path, [("127.0.0.1", new.port)])
            assert wait_for(lambda: names() == {f"local@127.0.0.1:{new.port}"}, 10), names()
            chunks = [first, *stream]
            assert chunks[-1].choices[0].finish_reason == "stop"

            def has_moved() -> bool:
                """The gateway learns of it within its next look at the registry."""
                client.chat.completions.create(model="base", messages=ask)  # type: ignore[arg-type]
                return bool(new.seen.requests)

            assert wait_for(has_moved, 10)
