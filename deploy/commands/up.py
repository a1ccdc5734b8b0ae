"""adapterloop up."""

from __future__ import annotations

import click

from deploy.commands.context import configuration, fail, worker_kind


@click.command("up")
@worker_kind
def command(worker: str | None) -> None:
    """Run the whole loop on this machine, in the foreground, until Ctrl-C or SIGTERM.

    Makes what is missing first (environments, base model, database, keys). Ends with 1 and one line
    where it cannot start, for instance because the port is in use.
    """
    config = configuration(worker)
    from deploy.progress import Progress
    from deploy.setup import SetupFailed
    from deploy.up import CannotStart, up

    try:
        up(config, Progress())
    except (CannotStart, SetupFailed, OSError) as error:
        fail(f"adapterloop up: {error}")
