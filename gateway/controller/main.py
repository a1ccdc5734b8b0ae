"""Runs a controller in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence

import aiohttp
from sqlalchemy import Engine

from feedback.db import make_engine
from feedback.store import FeedbackStore
from gateway.controller.canary import CanaryDriver
from gateway.controller.loops import Chore, Controller, Store
from gateway.controller.schedule import Schedule
from gateway.registry.service import Registry
from gateway.settings import GatewaySettings
from gateway.workers.discovery import Discovery, source_of, spec_of
from gateway.workers.kinds import make_admin

logger = logging.getLogger(__name__)


def make_chores(settings: GatewaySettings, registry: Registry, engine: Engine) -> list[Chore]:
    """Make what the leader does besides keeping workers as they should be."""
    captures = FeedbackStore(engine, settings.feedback)
    schedule = Schedule(engine, settings.refresh)
    return [
        Chore("canaries", 1.0, CanaryDriver(registry, engine, settings.rollout).step),
        Chore("schedule", 5.0, schedule.step),
        Chore("retention", 600.0, captures.expire),
        Chore("storage", 3600.0, registry.storage.sweep),
    ]


async def serve(
    settings: GatewaySettings, store: Store, stop: asyncio.Event, chores: Sequence[Chore] = ()
) -> None:
    """Run a controller until `stop` is set."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    async with aiohttp.ClientSession() as session:
        sources = [(entry, source_of(entry, session)) for entry in settings.workers]
        found = [(entry, source) for entry, source in sources if source is not None]
        controller = Controller(
            store,
            lambda spec: make_admin(spec, session),
            [spec_of(entry) for entry, source in sources if source is None],
            holder=holder,
            max_cpu_loras=settings.max_cpu_loras,
            placement=settings.placement,
            chores=chores,
            bases=settings.base_models,
            discovery=Discovery(store, found) if found else None,
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
    registry, engine = Registry.from_settings(settings), make_engine(settings.database_url)
    try:
        await serve(settings, registry, stop, make_chores(settings, registry, engine))
    finally:
        registry.close()
        engine.dispose()
    logger.info("controller stopped")
