"""adapterloop doctor."""

from __future__ import annotations

import sys

import click

from deploy.commands.context import configuration


@click.command("doctor")
def command() -> None:
    """Look for what would keep this machine from serving; ends with 1 where something would."""
    config = configuration()
    from deploy.doctor import Grade, examine

    worst = Grade.OK
    for finding in examine(config):
        click.echo(f"{finding.grade:<4}  {finding.topic:<11}  {finding.text}")
        if finding.grade is Grade.FAIL:
            worst = Grade.FAIL
    sys.exit(worst is Grade.FAIL)
