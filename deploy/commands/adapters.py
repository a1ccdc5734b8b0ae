"""adapterloop adapters: which versions there are, and which one serves."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.context import admin_api, fail

if TYPE_CHECKING:
    from deploy.api import AdminApi

VERIFY_S = 300.0
READY_STATES = ("candidate", "serving")


@click.group("adapters")
def command() -> None:
    """Add adapter versions and decide which one serves."""


@command.command("list")
@click.argument("alias", required=False)
def list_(alias: str | None) -> None:
    """Show aliases, their versions, and where these are loaded."""
    with admin_api() as api:
        found = [api.get(f"/adapters/{alias}")] if alias else api.get("/adapters")["data"]
    for entry in found:
        _show(entry)


@command.command("add")
@click.argument("alias")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def add(alias: str, folder: Path) -> None:
    """Register the adapter in FOLDER as the next version of ALIAS: its files are uploaded."""
    with admin_api() as api:
        from deploy.progress import Progress
        from deploy.upload import upload_adapter

        answer = upload_adapter(api, alias, folder, Progress(sys.stderr))
    click.echo(f"{alias}@{answer['version']}  {answer['state']}  {answer['sha256'][:12]}")


@command.command("promote")
@click.argument("alias")
@click.argument("version", type=int)
@click.option("--wait/--no-wait", default=True, help="Wait until the version is verified.")
def promote(alias: str, version: int, wait: bool) -> None:
    """Make VERSION the one that ALIAS serves, once a worker has proven that it has effect.

    Version 0 is the base model, which needs no proof.
    """
    with admin_api() as api:
        if wait and version:
            _until_verified(api, alias, version)
        api.post(f"/adapters/{alias}/promote", {"version": version})
    click.echo(f"{alias} serves {alias}@{version}")


@command.command("rollback")
@click.argument("alias")
def rollback(alias: str) -> None:
    """End a rollout of ALIAS, or else go back to the version before."""
    with admin_api() as api:
        api.post(f"/adapters/{alias}/rollback")
        entry = api.get(f"/adapters/{alias}")
    _show(entry)


@command.command("rollout")
@click.argument("alias")
@click.argument("version", type=int)
@click.option(
    "--steps", default="0.05,0.25,1.0", show_default=True, help="Growing shares of the callers."
)
def rollout(alias: str, version: int, steps: str) -> None:
    """Give VERSION (0 is the base model) a growing share of ALIAS's callers."""
    try:
        shares = [float(part) for part in steps.split(",")]
    except ValueError:
        raise click.BadParameter("numbers separated by commas", param_hint="--steps") from None
    with admin_api() as api:
        if version:
            _until_verified(api, alias, version)
        api.post(f"/adapters/{alias}/rollout", {"version": version, "steps": shares})
    click.echo(f"{alias}@{version} gets {shares[0]:.0%} of the callers")


@command.command("retire")
@click.argument("alias")
@click.argument("version", type=int)
def retire(alias: str, version: int) -> None:
    """End VERSION for good; workers drop it once its calls are done."""
    with admin_api() as api:
        api.post(f"/adapters/{alias}/versions/{version}/retire")
    click.echo(f"{alias}@{version} is retired")


def _until_verified(api: AdminApi, alias: str, number: int) -> None:
    from deploy.progress import Progress

    progress, deadline = Progress(), time.monotonic() + VERIFY_S
    while True:
        versions = {v["version"]: v for v in api.get(f"/adapters/{alias}")["versions"]}
        if number not in versions:
            fail(f"{alias}@{number} does not exist; versions: {_numbers(versions)}")
        state = versions[number]["state"]
        if state in READY_STATES:
            return
        if state not in ("registered", "verifying"):
            fail(f"{alias}@{number} is {state}: it cannot serve")
        if time.monotonic() > deadline:
            fail(f"{alias}@{number} is still {state} after {VERIFY_S:.0f} s; see controller.log")
        progress.waiting(f"verifying {alias}@{number} on a worker ({state})")
        time.sleep(0.5)


def _numbers(versions: dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"


def _show(entry: dict[str, Any]) -> None:
    stable = entry.get("stable")
    text = f"serves version {stable}" if stable is not None else "serves nothing yet"
    if entry.get("candidate") is not None:
        text += f", and version {entry['candidate']} to {entry['weight']:.0%} of the callers"
    if entry.get("previous") is not None:
        text += f"; before: version {entry['previous']}"
    click.echo(f"{entry['alias']}: {text}")
    for version in entry.get("versions", ()):
        line = f"  {version['version']:>4}  {version['state']:<10}  {version['sha256'][:12]}"
        click.echo(f"{line}  {version['waiting']}".rstrip())
