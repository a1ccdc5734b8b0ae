"""adapterloop worker."""

from __future__ import annotations

import os

import click

from deploy.commands.context import configuration, fail
from deploy.commands.processes import tied
from deploy.config import Config


@click.command("worker")
@tied
def command(die_with_parent: bool) -> None:
    """Become the local worker, in the foreground until SIGTERM: vLLM, or llama.cpp."""
    config = configuration()
    from deploy import processes, worker
    from deploy.home import Home

    if die_with_parent:
        processes.die_with_parent()
        # vLLM's engine processes outlive a server that was killed, and keep its memory.
        processes.stop(processes.find(Home(config.home), "worker"), patience_s=2)
    if config.local_worker.kind == "llamacpp":
        _llamacpp(config)
        return
    line = worker.command(config)
    try:
        os.execve(line[0], line, worker.environment(config, os.environ))  # noqa: S606
    except OSError as error:
        fail(f"{line[0]}: {error.strerror}; run `adapterloop setup` first")


def _llamacpp(config: Config) -> None:
    import logging

    from deploy.llamacpp.run import run
    from deploy.llamacpp.server import NoServer
    from deploy.model import DefaultModelUnavailable

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("gguf").setLevel(logging.WARNING)
    try:
        run(config)
    except (NoServer, DefaultModelUnavailable) as error:
        fail(f"adapterloop worker: {error}")
