"""adapterloop feedback: the rows that versions are trained and measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.commands.context import configuration, fail

if TYPE_CHECKING:
    from deploy.api import AdminApi

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("feedback")
def command() -> None:
    """Import rows, export data sets, look at and set the golden set."""


@command.command("import")
@click.argument("alias")
@click.argument("file", type=_FILE)
@click.option("--map", "columns", multiple=True, help="FIELD=COLUMN, such as output=answer.")
@click.option("--set", "constants", multiple=True, help="FIELD=TEXT for every row.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
def import_(
    alias: str, file: Path, columns: tuple[str, ...], constants: tuple[str, ...], dry_run: bool
) -> None:
    """Import FILE (.jsonl or .csv: instruction, input, output) for ALIAS to be trained on."""
    mapping = {**_pairs(columns, "--map"), "constants": _pairs(constants, "--set")}
    form = {"mapping": json.dumps(mapping), "dry_run": str(dry_run).lower()}
    with _api() as api:
        files = {"file": (file.name, file.read_bytes())}
        told = api.post(f"/imports/{alias}", files=files, data=form)
    would = "would be imported" if dry_run else "imported"
    click.echo(f"{told['imported']} of {told['read']} rows {would}")
    for reason, number in told["dropped"].items():
        click.echo(f"  left out, {reason}: {number}")
    for example in told["examples"]:
        click.echo(f"    {example['message']}")


@command.command("export")
@click.argument("alias")
@click.option("--digest", help="Of a data set; default: the newest, made of all there is by now.")
def export(alias: str, digest: str | None) -> None:
    """Write a data set's rows as JSON lines, each with where it came from."""
    with _api() as api:
        chosen = digest or api.post("/datasets", {"alias": alias})["digest"]
        click.echo(api.text(f"/datasets/{chosen}/rows"), nl=False)


@command.command("golden")
@click.argument("alias")
@click.argument("file", type=_FILE, required=False)
def golden(alias: str, file: Path | None) -> None:
    """Write ALIAS's golden set as JSON lines; or make the items of FILE the golden set."""
    with _api() as api:
        if file is None:
            click.echo(api.text(f"/golden/{alias}"), nl=False)
            return
        told = api.put(f"/golden/{alias}", file.read_bytes())
    slices = ", ".join(f"{number} {name or '-'}" for name, number in told["slices"].items())
    click.echo(f"golden set of {alias}: {told['items']} items ({slices}), {told['digest'][:12]}")


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name or not value:
            raise click.BadParameter(f"{pair!r} is not FIELD=VALUE", param_hint=option)
        pairs[name] = value
    return pairs


@contextmanager
def _api() -> Iterator[AdminApi]:
    config = configuration()
    from deploy.api import ApiError, connect

    try:
        with connect(config) as api:
            yield api
    except ApiError as error:
        fail(str(error))
