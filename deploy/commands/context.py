"""What commands share: the configuration, read or refused in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from deploy.config import Config, ConfigError, load

if TYPE_CHECKING:
    from deploy.api import AdminApi


def configuration() -> Config:
    """Return the configuration, or end with its mistakes, one a line."""
    try:
        return load()
    except ConfigError as error:
        fail(str(error))


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
