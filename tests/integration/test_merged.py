"""A merged model as a version: workers are started with it, and aliases move to it and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.settings import Timeouts
from tests.acceptance.live import wait_for
from tests.stub import effects
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .adapters import add_fingerprint, make_model
from .conftest import MakeStack
from .stack import Stack
from .wire import CHAT, body_for


@contextmanager
def started_with(stub: StubWorker, name: str, folder: Path) -> Iterator[None]:
    """The worker as it is after a start with a model under a name, and as it was."""
    before = stub.worker.base
    for base, merged in ((name, effects.Weights.read(str(folder))), (before, None)):
        stub.kill()
        stub.worker.reboot()
        stub.worker.base, stub.worker.merged = base, merged
        stub.start()
        if merged is not None:
            yield


def registered(stack: Stack, name: str, *, scale: float = 1.0, seed: int = 0) -> tuple[str, Path]:
    """Register a merged model as the next version of `support`; its name on workers, its files."""
    folder = make_model(stack.home / "sources" / name, seed=seed)
    answer = stack.register("support", add_fingerprint(folder, scale=scale))
    assert answer.status_code == 201, answer.text
    told = answer.json()
    return f"support@{told['version']}-{told['sha256'][:8]}", folder


def answered_by(stack: Stack, model: str, times: int = 20) -> set[str]:
    with stack.live.http() as http:
        answers = [http.post(CHAT, json=body_for(CHAT, model, str(n))) for n in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.json()["model"] for answer in answers}


def test_an_alias_moves_between_an_adapter_and_a_merged_model(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2)
    plain, own = stack.workers
    stack.publish("support", stack.source("one", seed=1))
    name, folder = registered(stack, "whole")
    assert stack.live.adapter("support")["versions"][1]["kind"] == "merged"
    waits = f"No worker that is up was started with it, under the name {name}."
    assert stack.live.adapter("support")["versions"][1]["waiting"] == waits
    assert waits in stack.promote("support", 2).text

    with started_with(own, name, folder):
        moved = wait_for(lambda: stack.promote("support", 2).status_code == 200, 60)
        assert moved, stack.controller.tail()
        assert stack.routable("support")
        assert answered_by(stack, "support") == {"support@2"}
        assert answered_by(stack, "support@1") == {"support@1"}
        assert {asked.model for asked in own.seen.requests if asked.model == name}
        own_calls = len(own.seen.requests)
        assert answered_by(stack, "base") == {"base@0"}, "the merged model is no base"
        assert len(own.seen.requests) == own_calls
        assert name not in own.seen.loads + own.seen.unloads + plain.seen.loads
        with stack.live.admin() as admin:
            workers = admin.get("/admin/v1/workers").json()["data"]
            [placement] = workers[1]["placements"]
            assert (placement["model"], placement["effect"]) == ("support@2", "effective")
            assert admin.post("/admin/v1/adapters/support/rollback").status_code == 200
        assert wait_for(lambda: answered_by(stack, "support", 1) == {"support@1"}, 60)
    # Its worker has a base again, and takes adapters.
    assert wait_for(lambda: name not in own.worker.adapters and bool(own.worker.adapters), 60)


def test_a_worker_that_answers_with_other_weights_gets_no_calls(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2, timeouts=Timeouts(worker_wait=1))
    _, own = stack.workers
    name, _ = registered(stack, "whole", seed=1)
    other = add_fingerprint(make_model(stack.home / "sources" / "other", seed=2), scale=4.0)
    with started_with(own, name, other):
        own.script = Script(text="Never shown.")

        def found() -> list[str]:
            [version] = stack.live.adapter("support")["versions"]
            return [place["effect"] for place in version["placements"]]

        assert wait_for(lambda: found() == ["mismatch"], 60), stack.controller.tail()
        assert not stack.callable("support@1")
        assert not own.seen.requests
