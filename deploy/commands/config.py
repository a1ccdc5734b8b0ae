"""adapterloop config check, adapterloop config show."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.context import fail
from deploy.config import Config, ConfigError, config_file, load, unknown_variables

_FILE = click.argument("file", required=False, type=click.Path(path_type=Path))


@click.group("config")
def command() -> None:
    """Check or show the configuration."""


@command.command("check")
@_FILE
def check(file: Path | None) -> None:
    """Name the line of every mistake; FILE is what ADAPTERLOOP_CONFIG names unless given."""
    _load(file)
    for name in unknown_variables():
        click.echo(f"{name}: no such setting (ignored)", err=True)
    click.echo(f"{file or config_file() or 'the environment'}: ok")


@command.command("show")
@_FILE
def show(file: Path | None) -> None:
    """Print every setting with its value in force, as YAML; secrets are masked."""
    import yaml

    click.echo(yaml.safe_dump(_load(file).model_dump(mode="json"), sort_keys=False), nl=False)


def _load(file: Path | None) -> Config:
    try:
        return load(file)
    except ConfigError as error:
        fail(str(error))
