"""What commands share: the configuration, read or refused in words."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from deploy.config import Config, ConfigError, load


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
