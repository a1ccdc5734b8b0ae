"""adapterloop migrate."""

from __future__ import annotations

import click

from deploy.commands.context import configuration, fail


@click.command("migrate")
def command() -> None:
    """Bring the database to this version's tables; safe to run anywhere, any number of times."""
    config = configuration()
    from deploy.compose import database_url, gateway_settings
    from deploy.home import Home
    from deploy.migrations import upgrade
    from gateway.errors import GatewayError
    from gateway.registry.bases import stranded, told
    from gateway.registry.service import Registry

    Home(config.home).create()
    try:
        upgrade(database_url(config))
        registry = Registry.from_settings(gateway_settings(config))
        registry.prepare()
        lost = told(stranded(registry.snapshot(), registry.base_models))
        registry.close()
    except GatewayError as error:
        fail(f"adapterloop migrate: {error}")
    for line in lost:
        click.echo(line, err=True)
    click.echo("the database is up to date")
