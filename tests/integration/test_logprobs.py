"""Whose worker is asked for logprobs: as configured, as the alias says, as the client wants."""

from __future__ import annotations

from typing import Any

from tests.stub.server import StubWorker

from .conftest import MakeStack
from .stack import Stack
from .test_fallback import options, post
from .wire import CHAT, ROUTES, TEXT


def confidence(stack: Stack, stub: StubWorker, model: str, route: str, **more: Any) -> str | None:
    """The confidence that an answer tells; its worker was asked for logprobs where there is one."""
    answer = post(stack, model, route, **more)
    assert answer.status_code == 200, answer.text
    assert ("logprobs" in stub.seen.requests[-1].body) == ("x-confidence" in answer.headers)
    return answer.headers.get("x-confidence")


def test_off_asks_no_worker_save_where_alias_or_client_want_it(make_stack: MakeStack) -> None:
    stack = make_stack(logprobs="off")
    stack.publish("support", stack.source("support", seed=1))
    assert stack.routable("support")
    [stub] = stack.workers
    for route in ROUTES:
        assert confidence(stack, stub, "support", route) is None
    for route, wish in ((CHAT, True), (TEXT, 0)):
        assert confidence(stack, stub, "support", route, logprobs=wish)
    options(stack, logprobs=1)
    for route in ROUTES:
        assert confidence(stack, stub, "support", route)
        assert confidence(stack, stub, "base", route) is None
    options(stack, logprobs=0.5)
    told = [confidence(stack, stub, "support", CHAT) for _ in range(40)]
    assert 5 < told.count(None) < 35
