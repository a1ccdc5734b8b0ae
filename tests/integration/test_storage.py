"""Adapters in a bucket, and workers that share no disk with the gateway."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.worker import PLUGIN
from tests.acceptance.refusals_suite import assert_openai_error
from tests.s3 import BUCKET, s3_server, variables
from tests.stub.server import StubWorker

from .stack import Stack

STORAGE = f"s3://{BUCKET}/loop"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubWorker]:
    """A worker that knows the storage's URL and has a disk of its own."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    plugin = importlib.import_module("adapterloop_vllm.middleware")
    own = {"ADAPTERLOOP_STORAGE": STORAGE, "ADAPTERLOOP_CACHE": str(tmp_path / "worker")}
    with StubWorker(around=lambda app: plugin.FetchAdapters(app, own)) as worker:
        yield worker


def test_a_worker_elsewhere_serves_what_lies_in_the_bucket(
    tmp_path: Path,
    guard_socket: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    with s3_server() as endpoint:
        for name, value in variables(endpoint).items():
            monkeypatch.setenv(name, value)
        remote: StubWorker = request.getfixturevalue("remote")
        stack = Stack(tmp_path / "home", guard_socket, [remote], storage=STORAGE)
        request.addfinalizer(stack.stop)
        stack.start()
        stack.publish("support", stack.source("support-1", seed=1))
        assert stack.routable("support"), stack.controller.tail()
        assert list((stack.home / "storage").iterdir()) == []
        [adapter] = remote.worker.adapters.values()
        assert Path(adapter.path).parent == tmp_path / "worker" / "adapters"
    # The bucket is away now. What serves goes on, also on a worker that has to load again.
    remote.restart()
    assert stack.routable("support", 60), stack.controller.tail()
    error = assert_openai_error(stack.register("support", stack.source("new", seed=2)), 503)
    assert error["code"] == "storage_unavailable"
    assert f"{BUCKET!r} cannot be reached" in error["message"]
    assert stack.callable("support")
