"""adapterloop feedback: the rows that versions are trained and measured on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from deploy.commands.context import admin_api, fail

if TYPE_CHECKING:
    from deploy.api import AdminApi

_IMPORT_S = 600.0
"""Looking for personal data in many rows takes its time, and so does erasing many."""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("feedback")
def command() -> None:
    """Import, export and erase rows, set the golden set, look at confidence."""


@command.command("import")
@click.argument("alias")
@click.argument("file", type=_FILE)
@click.option("--mapping", multiple=True, help="FIELD=COLUMN, such as output=answer.")
@click.option("--set", "constants", multiple=True, help="FIELD=TEXT for every row.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
def import_(
    alias: str, file: Path, mapping: tuple[str, ...], constants: tuple[str, ...], dry_run: bool
) -> None:
    """Import FILE (.jsonl or .csv: instruction, input, output) for ALIAS to be trained on."""
    fields = {**_pairs(mapping, "--mapping"), "constants": _pairs(constants, "--set")}
    form = {"mapping": json.dumps(fields), "dry_run": str(dry_run).lower()}
    with admin_api() as api, file.open("rb") as content:
        files = {"file": (file.name, content)}
        told = api.post(f"/imports/{alias}", files=files, data=form, timeout=_IMPORT_S)
    would = "would be imported" if dry_run else "imported"
    click.echo(f"{told['imported']} of {told['read']} rows {would}")
    if told["scrubbed"]:
        click.echo(f"  personal data replaced: {told['scrubbed']}")
    for reason, number in told["dropped"].items():
        click.echo(f"  left out, {reason}: {number}")
    for example in told["examples"]:
        click.echo(f"    {example['message']}")


@command.command("export")
@click.argument("alias")
@click.option("--digest", help="Of a data set.")
@click.option("--latest", is_flag=True, help="The newest data set that there is.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: the output.")
def export(alias: str, digest: str | None, latest: bool, out: Path | None) -> None:
    """Write a data set's rows as JSON lines, each with where it came from.

    With neither --digest nor --latest, a data set is made of all there is by now.
    """
    if digest and latest:
        raise click.UsageError("--digest and --latest exclude each other.")
    with admin_api() as api:
        chosen = digest or (_latest(api, alias) if latest else None)
        chosen = chosen or str(api.post("/datasets", {"alias": alias})["digest"])
        if (found := api.get(f"/datasets/{quote(chosen, safe='')}"))["alias"] != alias:
            fail(f"{chosen[:12]} is a data set of {found['alias']}, not of {alias}")
        rows = f"/datasets/{chosen}/rows"
        if out is None:
            api.save(rows, sys.stdout.buffer)
            return
        # A file of that name is always whole.
        part = out.with_name(f"{out.name}.part")
        try:
            with part.open("wb") as file:
                api.save(rows, file)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    click.echo(f"data set {chosen[:12]}: {found['rows']} rows in {out}")


def _latest(api: AdminApi, alias: str) -> str:
    data = api.get("/datasets", {"alias": alias, "limit": "1"})["data"]
    if not data:
        fail(f"there is no data set of {alias} yet; without --latest, one is made")
    return str(data[0]["digest"])


@command.command("golden")
@click.argument("alias")
@click.argument("file", type=_FILE, required=False)
def golden(alias: str, file: Path | None) -> None:
    """Write ALIAS's golden set as JSON lines; or make the items of FILE the golden set."""
    with admin_api() as api:
        if file is None:
            api.save(f"/golden/{alias}", sys.stdout.buffer)
            return
        told = api.put(f"/golden/{alias}", file.read_bytes())
    slices = ", ".join(f"{number} {name or '-'}" for name, number in told["slices"].items())
    click.echo(f"golden set of {alias}: {told['items']} items ({slices}), {told['digest'][:12]}")


@command.command("erase")
@click.option("--user", "users", multiple=True, help="As apps name them: user, session, ...")
@click.option("--response", "response_ids", multiple=True, help="The id of an answer.")
@click.option("--key", "keys", multiple=True, type=click.IntRange(min=1), help="Of an API key.")
@click.option("--ticket", "tickets", multiple=True, type=int, help="Of an imported row.")
@click.option("--reference", default="", help="For the record, such as a request's number.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Tell as JSON.")
def erase(dry_run: bool, yes: bool, as_json: bool, **named: Any) -> None:
    """Erase all rows of people for good, and tell which versions were trained on them.

    --user, --response, --key and --ticket may be repeated: all that any of them names is erased.
    """
    asked = {name: list(v) if isinstance(v, tuple) else v for name, v in named.items()}
    with admin_api() as api:

        def send(trial: bool) -> dict[str, Any]:
            body = {**asked, "dry_run": trial}
            told: dict[str, Any] = api.post("/erasures", json=body, timeout=_IMPORT_S)
            return told

        if not (dry_run or yes):
            click.echo("\n".join(_erased(send(True))), err=True)
            click.confirm("Erase this for good?", abort=True, err=True)
        told = send(dry_run)
    click.echo(json.dumps(told, indent=1) if as_json else "\n".join(_erased(told)))


def _erased(told: dict[str, Any]) -> list[str]:
    """Give a page about an erasure."""
    lines = ["would be erased" if told["dry_run"] else f"erased ({told['id']})"]
    lines += [f"  {kind.replace('_', ' '):<14}{n:>8}" for kind, n in told["counts"].items()]
    for title, some in (
        ("data sets", [_dataset(one) for one in told["datasets"]]),
        ("training runs", [_run(one) for one in told["runs"]]),
        ("versions trained on them", [_version(one) for one in told["versions"]]),
    ):
        lines += [title, *(f"  {line}" for line in some or ["none"])]
    return lines


def _dataset(one: dict[str, Any]) -> str:
    return f"{one['digest'][:12]}  {one['alias']:<16}{one['erased_rows']:>6} rows"


def _run(one: dict[str, Any]) -> str:
    version = f"{one['alias']}@{one['version']}" if one["version"] else one["alias"]
    return f"{one['job_id']:<22}{version:<18}{one['state']:<10}{one['dataset'][:12]}"


def _version(one: dict[str, Any]) -> str:
    made = "merged" if one["merged"] else (one["dataset"] or "")[:12]
    return f"{one['model']:<22}{one['state']:<12}{made}"


@command.command("confidence")
@click.argument("aliases", metavar="[ALIAS]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Tell as JSON.")
def confidence(aliases: tuple[str, ...], as_json: bool) -> None:
    """Tell how far the model's sureness can be trusted, by what reviewers found; of all aliases."""
    with admin_api() as api:
        names = aliases or [one["alias"] for one in api.every("/adapters")]
        told = [api.get(f"/confidence/{quote(name, safe='')}") for name in names]
    pages = ("\n".join(_trust(one)) for one in told)
    click.echo(json.dumps(told, indent=1) if as_json else "\n\n".join(pages))


def _trust(told: dict[str, Any]) -> list[str]:
    """Give a page about the sureness of an alias's answers."""
    labels = ", ".join(f"{n} {reason}" for reason, n in told["labels"].items()) or "none"
    missed, review = told["missed"], told["review"]
    lines = [told["alias"]]
    facts = {
        "method": told["method"],
        "labels": f"{sum(told['labels'].values())} ({labels}), {told['wrong']} wrong",
        "AUROC": f"{_share(told['auroc'])} (least sure token: {_share(told['auroc_minimum'])})",
        "Brier, ECE": f"{_share(told['brier'])}, {_share(told['ece'])}",
        "missed errors": "nothing was audited"
        if missed is None
        else f"{missed['value']:.1%} ({missed['low']:.1%} to {missed['high']:.1%}),"
        f" {missed['items']} audited",
        "review": f"{review['doubtful']} doubtful and {review['audited']} audited of a budget of"
        f" {review['budget']} a day; {review['seen']} answers",
        "doubtful below": f"{_share(review['threshold'])} (mean logprob)",
    }
    lines += [f"  {name:<16}{fact}" for name, fact in facts.items()]
    if told["risk_coverage"]:
        lines.append("  surest share    wrong among them")
        lines += [f"  {p['coverage']:>12.0%}    {p['risk']:.1%}" for p in told["risk_coverage"]]
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name or not value:
            raise click.BadParameter(f"{pair!r} is not FIELD=VALUE", param_hint=option)
        pairs[name] = value
    return pairs
