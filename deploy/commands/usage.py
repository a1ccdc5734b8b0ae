"""adapterloop usage: calls and tokens per day, alias, version and key."""

from __future__ import annotations

from datetime import datetime

import click

from deploy.commands.context import admin_api

_DAY = click.DateTime(["%Y-%m-%d"])
_COLUMNS = ("day", "alias", "version", "key_id", "requests", "prompt_tokens", "completion_tokens")


@click.command("usage")
@click.option("--since", type=_DAY, help="First day (UTC); default: thirty days ago.")
@click.option("--until", type=_DAY, help="Last day (UTC); default: today.")
@click.option("--alias", help="Of this alias only.")
@click.option("--csv", "as_csv", is_flag=True, help="As CSV, for a spreadsheet.")
def command(
    since: datetime | None, until: datetime | None, alias: str | None, as_csv: bool
) -> None:
    """Show what was used, per day, alias, version and key."""
    days = {"since": since, "until": until}
    asked = {name: f"{day:%Y-%m-%d}" for name, day in days.items() if day is not None}
    if alias is not None:
        asked["alias"] = alias
    with admin_api() as api:
        if as_csv:
            click.echo(api.text("/usage", {**asked, "format": "csv"}), nl=False)
            return
        lines = api.get("/usage", asked)["data"]
    click.echo("".join(f"{name:>19}" for name in _COLUMNS))
    for line in lines:
        click.echo("".join(f"{line[name]:>19}" for name in _COLUMNS))
