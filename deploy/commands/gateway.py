"""adapterloop gateway."""

from __future__ import annotations

import click

from deploy.commands.context import configuration
from deploy.commands.processes import process


@click.command("gateway")
@process
def command() -> None:
    """Run one gateway in the foreground until SIGTERM; calls in flight end first."""
    config = configuration()
    from deploy.compose import gateway_settings
    from gateway.main import run

    run(gateway_settings(config))
