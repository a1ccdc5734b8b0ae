"""adapterloop adapters: which versions there are, and which one serves."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

import click

from deploy.commands.context import admin_api, configuration, fail

if TYPE_CHECKING:
    from deploy.api import AdminApi
    from trainer.merge import Source

VERIFY_S = 300.0
COPY_S = 3600.0  # a merged model of tens of gigabytes is read, hashed and written
READY_STATES = ("candidate", "serving")


@click.group("adapters")
def command() -> None:
    """Add adapter versions and decide which one serves."""


@command.command("list")
@click.argument("alias", required=False)
def list_(alias: str | None) -> None:
    """Show aliases, their versions, and where these are loaded."""
    with admin_api() as api:
        found = [api.get(f"/adapters/{alias}")] if alias else api.every("/adapters")
    for entry in found:
        _show(entry)


@command.command("add")
@click.argument("alias")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--by-path", is_flag=True, help="FOLDER is on the gateway's machine, under `import_roots`."
)
def add(alias: str, folder: Path, by_path: bool) -> None:
    """Register the adapter or merged model in FOLDER as the next version of ALIAS.

    Its files are uploaded, unless the gateway can read them --by-path.
    """
    if not by_path and not folder.is_dir():
        raise click.BadParameter(f"{folder} is no folder of this machine", param_hint="FOLDER")
    with admin_api() as api:
        if by_path:
            body = {"path": str(folder)}
            answer = api.post(f"/adapters/{alias}/versions", json=body, timeout=COPY_S)
            _tell_added(alias, answer)
        else:
            _register(api, alias, folder)


@command.command("options")
@click.argument("alias")
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="A default, as JSON; null unsets it."
)
@click.option("--system-prompt", type=click.File("r", encoding="utf-8"), help="A file, or -.")
@click.option(
    "--fallback", multiple=True, metavar="MODEL", help="Who answers instead, in this order."
)
@click.option("--clear", is_flag=True, help="Begin with nothing rather than with what is set.")
def options(
    alias: str,
    sets: tuple[str, ...],
    system_prompt: IO[str] | None,
    fallback: tuple[str, ...],
    clear: bool,
) -> None:
    """Show what ALIAS brings along to each call, or change it."""
    changes = dict(_setting(text) for text in sets)
    if system_prompt is not None:
        changes["system_prompt"] = system_prompt.read()
    if fallback:
        changes["fallback"] = list(fallback)
    path = f"/adapters/{alias}/options"
    with admin_api() as api:
        found = api.get(path)
        if changes or clear:
            found = api.replace(path, {**({} if clear else found), **changes})
    _show_options({name: value for name, value in found.items() if value not in (None, [])})


@command.command("merge")
@click.argument("models", nargs=-1, required=True, metavar="ALIAS@VERSION ALIAS@VERSION...")
@click.option("--into", "alias", required=True, help="The alias that gets the merged version.")
@click.option("--weights", required=True, help="One number for each, separated by commas.")
@click.option(
    "--method",
    type=click.Choice(["linear", "ties", "dare_linear", "dare_ties"]),
    default="linear",
    show_default=True,
)
@click.option("--density", type=float, default=0.5, show_default=True, help="Of ties and dare.")
@click.option("--seed", type=int, default=7, show_default=True, help="Of dare.")
def merge(
    models: tuple[str, ...], alias: str, weights: str, method: str, density: float, seed: int
) -> None:
    """Merge versions of one base model, on this machine's CPU, into a new version of ALIAS."""
    from deploy.compose import model_path
    from trainer.errors import MergeRefused
    from trainer.merge import Plan
    from trainer.merge import merge as run

    shares = _numbers_in(weights, "--weights")
    if len(shares) != len(models):
        fail(f"{len(models)} versions take {len(models)} weights, and --weights has {len(shares)}")
    base = model_path(configuration())
    if base is None:
        fail("a merge needs the base model's files: set ADAPTERLOOP_MODEL to their folder")
    with admin_api() as api, TemporaryDirectory() as folder:
        sources = [
            _fetch(api, model, share, Path(folder) / str(place))
            for place, (model, share) in enumerate(zip(models, shares, strict=True))
        ]
        out = Path(folder) / "merged"
        try:
            kept = run(base, sources, Plan(method, density, seed), alias, out)
        except MergeRefused as error:
            fail(str(error))
        click.echo(f"{kept:.1%} of the merged change fits its rank")
        _register(api, alias, out)


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
@click.option(
    "--shadow",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Send copies of this share of the calls first, whose answers nobody is shown.",
)
@click.option("--shadow-answers", type=click.IntRange(1), help="Pairs to see before the steps.")
def rollout(
    alias: str, version: int, steps: str, shadow: float | None, shadow_answers: int | None
) -> None:
    """Give VERSION (0 is the base model) a growing share of ALIAS's callers."""
    shares = _numbers_in(steps, "--steps")
    if shadow is None and shadow_answers is not None:
        raise click.BadParameter("needs --shadow", param_hint="--shadow-answers")
    body: dict[str, Any] = {"version": version, "steps": shares}
    if shadow is not None:
        answers = {"answers": shadow_answers} if shadow_answers is not None else {}
        body["shadow"] = {"share": shadow, **answers}
    with admin_api() as api:
        if version:
            _until_verified(api, alias, version)
        api.post(f"/adapters/{alias}/rollout", body)
    if shadow is not None:
        click.echo(f"{alias}@{version} gets copies of {shadow:.0%} of the calls, which nobody sees")
    else:
        click.echo(f"{alias}@{version} gets {shares[0]:.0%} of the callers")


@command.command("retire")
@click.argument("alias")
@click.argument("version", type=int)
def retire(alias: str, version: int) -> None:
    """End VERSION for good; workers drop it once its calls are done."""
    with admin_api() as api:
        api.post(f"/adapters/{alias}/versions/{version}/retire")
    click.echo(f"{alias}@{version} is retired")


@command.command("pin")
@click.argument("alias")
@click.argument("version", type=int)
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True)
def pin(alias: str, version: int, replicas: int) -> None:
    """Keep VERSION on so many workers, whatever else is called."""
    with admin_api() as api:
        api.put(f"/adapters/{alias}/versions/{version}/pin", {"replicas": replicas})
    click.echo(f"{alias}@{version} is pinned to {_workers(replicas)}")


@command.command("unpin")
@click.argument("alias")
@click.argument("version", type=int)
def unpin(alias: str, version: int) -> None:
    """Let VERSION make room for others again."""
    with admin_api() as api:
        api.delete(f"/adapters/{alias}/versions/{version}/pin")
    click.echo(f"{alias}@{version} is no longer pinned")


def _register(api: AdminApi, alias: str, folder: Path) -> None:
    from deploy.progress import Progress
    from deploy.upload import upload_adapter

    _tell_added(alias, upload_adapter(api, alias, folder, Progress(sys.stderr)))


def _tell_added(alias: str, answer: dict[str, Any]) -> None:
    click.echo(f"{alias}@{answer['version']}  {answer['state']}  {answer['sha256'][:12]}")


def _fetch(api: AdminApi, model: str, weight: float, folder: Path) -> Source:
    """Bring a version's files here."""
    from trainer.merge import Source

    alias, _, number = model.partition("@")
    versions = {str(v["version"]): v for v in api.get(f"/adapters/{alias}")["versions"]}
    if number not in versions:
        fail(f"{model}: name a version as {alias}@N; there are {', '.join(versions) or 'none'}")
    found = versions[number]
    if found.get("kind") == "merged":
        fail(f"{model} is a whole model: only adapters are merged")
    folder.mkdir()
    for name in found["manifest"].get("files", {}):
        with (folder / name).open("wb") as file:
            api.save(f"/adapters/{alias}/versions/{number}/files/{name}", file)
    return Source(model, found["sha256"], folder, weight)


def _numbers_in(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers separated by commas", param_hint=option) from None


def _setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; what is no JSON is text."""
    name, given, value = text.partition("=")
    if not given:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _until_verified(api: AdminApi, alias: str, number: int) -> None:
    from deploy.progress import Progress

    progress, deadline = Progress(), time.monotonic() + VERIFY_S
    while True:
        versions = {v["version"]: v for v in api.get(f"/adapters/{alias}")["versions"]}
        if number not in versions:
            fail(f"{alias}@{number} does not exist; versions: {_numbers(versions)}")
        state, why = versions[number]["state"], versions[number].get("waiting") or ""
        if state in READY_STATES:
            return
        if state not in ("registered", "verifying"):
            fail(f"{alias}@{number} is {state}: it cannot serve")
        if time.monotonic() > deadline:
            reason = why or "see controller.log"
            fail(f"{alias}@{number} is still {state} after {VERIFY_S:.0f} s; {reason}")
        progress.waiting(why or f"verifying {alias}@{number} on a worker ({state})")
        time.sleep(0.5)


def _numbers(versions: dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"


def _show(entry: dict[str, Any]) -> None:
    stable = entry.get("stable")
    text = f"serves version {stable}" if stable is not None else "serves nothing yet"
    if entry.get("shadow"):
        text += f", and version {entry['candidate']} gets copies of {entry['shadow']:.0%} of calls"
    elif entry.get("candidate") is not None:
        text += f", and version {entry['candidate']} to {entry['weight']:.0%} of the callers"
    if entry.get("previous") is not None:
        text += f"; before: version {entry['previous']}"
    click.echo(f"{entry['alias']}: {text}")
    for version in entry.get("versions", ()):
        pinned = version.get("pinned")
        text = f"  {version['version']:>4}  {version['state']:<10}  {version['sha256'][:12]}"
        told = f"pinned to {_workers(pinned)}" if pinned else ""
        if version.get("kind") == "merged":
            told = "a merged model"
        click.echo("  ".join(filter(None, (text, told, version.get("waiting")))))
    _show_options(entry.get("options", {}))


def _show_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False)}")


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
