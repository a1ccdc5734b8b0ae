"""What commands share: the configuration, read or refused in words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from deploy.config import PREFIX, Config, ConfigError, load

if TYPE_CHECKING:
    from deploy.api import AdminApi

_WORKER = f"{PREFIX}LOCAL_WORKER__KIND"

worker_kind = click.option(
    "--worker",
    type=click.Choice(["vllm", "llamacpp"]),
    help="What runs the model: vllm (default), or llamacpp, faster on a laptop without a GPU.",
)


def configuration(worker: str | None = None) -> Config:
    """Return the configuration, or end with its mistakes, one a line.

    `worker` overrides the kind of the local worker, for the processes that this one starts too.
    """
    if worker is not None:
        os.environ[_WORKER] = worker
    try:
        config = load()
    except ConfigError as error:
        fail(str(error))
    if worker is not None and config.workers:
        fail(
            f"--worker {worker}: the configuration names workers that already run; give one or"
            " the other"
        )
    return config


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what went wrong on standard error and end."""
    click.echo(message, err=True)
    sys.exit(status)


@contextmanager
def admin_api() -> Iterator[AdminApi]:
    """Open the admin API of this home's gateway, or end with its refusal."""
    config = configuration()
    from deploy.api import ApiError, connect

    try:
        with connect(config) as api:
            yield api
    except ApiError as error:
        fail(str(error))
