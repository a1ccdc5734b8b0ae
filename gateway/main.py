"""Runs one gateway process in the foreground."""

from __future__ import annotations

import gc
import logging

import uvicorn

from gateway.app import create_app
from gateway.serving.protocol import ServingProtocol
from gateway.settings import GatewaySettings


def spare_the_collector() -> None:
    """Keep the garbage collector away from what lives as long as the process.

    Every request makes enough objects for several young collections, and an old one would walk
    through all modules of FastAPI and SQLAlchemy: more than a third of the CPU of a call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT; calls in flight get up to 20 s to end."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    app = create_app(settings)
    spare_the_collector()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=ServingProtocol,
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=settings.timeouts.keep_alive,
        timeout_graceful_shutdown=20,
    )
