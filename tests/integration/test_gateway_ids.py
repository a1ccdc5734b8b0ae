"""Each gateway is told apart, wherever it runs: the controller waits for all of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from deploy.migrations import upgrade
from gateway.app import create_app
from gateway.registry.service import Registry
from gateway.settings import GatewaySettings


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
    registry.close()
