"""adapterloop setup."""

from __future__ import annotations

import click

from deploy.commands.context import configuration, fail, worker_kind


@click.command("setup")
@click.option("--gpu", is_flag=True, help="vLLM for NVIDIA GPUs in the worker's environment.")
@worker_kind
def command(gpu: bool, worker: str | None) -> None:
    """Make what serving needs and is not there yet; again costs nothing.

    torch comes as its CPU build from the package index in use; where that has none, name one that
    does with ADAPTERLOOP_TORCH_INDEX.
    """
    config = configuration(worker)
    if gpu and config.local_worker.kind != "vllm":
        fail("adapterloop setup: --gpu is for the worker vllm")
    from deploy.progress import Progress
    from deploy.setup import Setup, SetupFailed

    try:
        Setup(Progress(), torch_index=config.torch_index, gpu=gpu).run(config)
    except SetupFailed as error:
        fail(f"adapterloop setup: {error}")
    except KeyboardInterrupt:
        fail("interrupted; the next set-up goes on from here", 130)
