"""adapterloop worker."""

from __future__ import annotations

import os

import click

from deploy.commands.context import configuration, fail
from deploy.commands.processes import tied


@click.command("worker")
@tied
def command(die_with_parent: bool) -> None:
    """Become the local vLLM worker, in the foreground until SIGTERM."""
    config = configuration()
    from deploy import processes, worker
    from deploy.home import Home

    if die_with_parent:
        processes.die_with_parent()
        # vLLM's engine processes outlive a server that was killed, and keep its memory.
        processes.stop(processes.find(Home(config.home), "worker"), patience_s=2)
    line = worker.command(config)
    try:
        os.execve(line[0], line, worker.environment(config, os.environ))  # noqa: S606
    except OSError as error:
        fail(f"{line[0]}: {error.strerror}; run `adapterloop setup` first")
