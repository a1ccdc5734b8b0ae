"""adapterloop guard."""

from __future__ import annotations

import asyncio
import os

import click

from deploy.commands.context import configuration, fail
from deploy.commands.processes import process


@click.command("guard")
@process
def command() -> None:
    """Run one guard process in the foreground until SIGTERM."""
    config = configuration()
    from deploy.home import Home
    from guardrails.errors import GuardError
    from guardrails.process import run

    home = Home(config.home)
    home.create()
    # The socket is for the owner alone.
    os.umask(0o077)
    try:
        asyncio.run(run(home.socket("guard"), config.guard))
    except (GuardError, OSError) as error:
        fail(f"the guard process cannot run: {error}")
