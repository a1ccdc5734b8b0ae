"""Each gateway is told apart, wherever it runs: the controller waits for all that live."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, closing
from pathlib import Path

from deploy.migrations import upgrade
from gateway.app import create_app
from gateway.registry.service import Registry
from gateway.settings import GatewaySettings
from tests.stub.script import Script
from tests.stub.server import StubWorker

from .stack import Stack


async def test_gateways_of_one_host_name_and_process_number_are_two(tmp_path: Path) -> None:
    """As containers on a host's own network: each has the host's name, and is its process 1."""
    made = [
        GatewaySettings(
            database_url=f"sqlite:///{tmp_path}/adapterloop.db",
            storage=tmp_path / "storage",
            outbox=tmp_path / f"outbox-{port}",
            guard_socket=tmp_path / "guard.sock",
            port=port,
        )
        for port in (8001, 8002)
    ]
    upgrade(made[0].database_url)
    registry = Registry.from_settings(made[0])
    registry.prepare()
    async with AsyncExitStack() as running:
        for settings in made:
            app = create_app(settings)
            await running.enter_async_context(app.router.lifespan_context(app))
        async with asyncio.timeout(10):
            while len(registry.live_gateways()) < len(made):  # noqa: ASYNC110 (a row is waited for)
                await asyncio.sleep(0.1)
    assert registry.live_gateways() == (), "who has stopped in good order is not waited for"
    registry.close()


def test_a_gateway_that_is_told_to_end_leaves_when_its_calls_have_ended(
    stack: Stack, stub: StubWorker
) -> None:
    process, live = stack.add_gateway()
    stub.script = Script(text="The train leaves at noon. " * 5, delay=0.1)
    body = {"model": "support", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with (
        closing(Registry.from_settings(stack.settings)) as registry,
        live.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        os.kill(process.pid, signal.SIGTERM)
        assert len(registry.live_gateways()) == 2
        assert [line for line in lines if line][-1] == "data: [DONE]"
        process.stop()
        assert len(registry.live_gateways()) == 1, process.tail()
