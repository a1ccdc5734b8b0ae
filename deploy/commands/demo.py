"""adapterloop demo."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.context import configuration, fail, worker_kind


@click.command("demo")
@click.option("--quick", is_flag=True, help="One night, 60 golden items.")
@click.option(
    "--control", is_flag=True, help="One night on shuffled answers, which the gate must stop."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/demo.json"),
    show_default=True,
    help="Where the figures go.",
)
@worker_kind
def command(quick: bool, control: bool, out: Path, worker: str | None) -> None:
    """Play two nights of the whole loop on made-up tickets: import, train, gate, canary, review.

    Leaves its state in the home that `up` opens, so that the pages have something to show.
    """
    config = configuration(worker)
    import httpx

    from deploy.demo.run import check_kind, run
    from deploy.demo.story import DemoFailed
    from deploy.progress import Progress
    from deploy.setup import Setup, SetupFailed

    progress = Progress()
    try:
        if worker is not None:
            check_kind(config, worker)  # before the set-up, which may build for ten minutes
        Setup(progress, torch_index=config.torch_index).run(config)
        report = run(config, progress, quick=quick, control=control, out=out)
    except (DemoFailed, SetupFailed, RuntimeError, httpx.HTTPError, OSError) as error:
        fail(f"adapterloop demo: {error}")
    progress.plain(report.table())
    progress.plain(f"figures: {out}; look at it with `make up`")
