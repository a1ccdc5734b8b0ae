"""adapterloop guard."""

from __future__ import annotations

import click

from deploy.commands.context import configuration
from deploy.commands.processes import process


@click.command("guard")
@process
def command() -> None:
    """Run one guard process in the foreground until SIGTERM."""
    config = configuration()
    from deploy.compose import guard_arguments
    from guardrails.process import main

    main(guard_arguments(config))
