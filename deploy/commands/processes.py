"""What the commands that run one process each share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import click

tied = click.option(
    "--die-with-parent", is_flag=True, hidden=True, help="End when the starting process ends."
)


def process(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a process command its common option and logging."""

    @tied
    @click.pass_context
    def wrapped(context: click.Context, die_with_parent: bool) -> None:
        if die_with_parent:
            from deploy import processes

            processes.die_with_parent()
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        # A line for each request that the controller sends would drown what matters.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        context.invoke(function)

    wrapped.__doc__ = function.__doc__
    return wrapped
