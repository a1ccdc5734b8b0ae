"""Runs a controller in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket

import aiohttp

from gateway.controller.loops import Controller, Store
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerSpec
from gateway.settings import GatewaySettings
from gateway.workers.client import make_admin

logger = logging.getLogger(__name__)


async def serve(settings: GatewaySettings, store: Store, stop: asyncio.Event) -> None:
    """Run a controller until `stop` is set."""
    specs = [WorkerSpec(w.name, w.url.rstrip("/"), w.kind) for w in settings.workers]
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    async with aiohttp.ClientSession() as session:
        controller = Controller(
            store,
            lambda spec: make_admin(spec, session),
            specs,
            holder=holder,
            max_cpu_loras=settings.max_cpu_loras,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(controller.run(), name="controller")
            await stop.wait()
            running.cancel()


def run(settings: GatewaySettings) -> None:
    """Run the controller until a signal ends it."""
    asyncio.run(_main(settings))


async def _main(settings: GatewaySettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    registry = Registry.from_settings(settings)
    try:
        await serve(settings, registry, stop)
    finally:
        registry.close()
    logger.info("controller stopped")
