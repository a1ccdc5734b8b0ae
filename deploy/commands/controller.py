"""adapterloop controller."""

from __future__ import annotations

import click

from deploy.commands.context import configuration
from deploy.commands.processes import process


@click.command("controller")
@process
def command() -> None:
    """Run one controller in the foreground until SIGTERM; of several, one at a time leads."""
    config = configuration()
    from deploy.compose import gateway_settings
    from gateway.controller.main import run

    run(gateway_settings(config))
