"""adapterloop trainer: from reviewed answers to a better adapter."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.context import configuration, fail
from deploy.commands.processes import process

if TYPE_CHECKING:
    from trainer.client import AdminClient
    from trainer.settings import Surroundings


@click.group("trainer")
def command() -> None:
    """Train, measure and publish new versions; or wait for jobs and do so."""


@command.command("refresh")
@click.argument("alias")
@click.option("--method", type=click.Choice(["qlora", "lora"]))
@click.option("--rank", type=int)
@click.option("--alpha", type=int)
@click.option("--epochs", type=float)
@click.option("--batch", type=int)
@click.option("--learning-rate", type=float)
@click.option("--seed", type=int)
def refresh(alias: str, **recipe: Any) -> None:
    """Give ALIAS a new version from all that was imported and reviewed.

    Data set, training, registration, evaluation on the golden set, gate, canary. Killed, it goes on
    from its last checkpoint when it is started again. Ends with 0 where the new version passed and
    was published, with 3 where the gate held it back, with 1 where it failed.
    """
    from trainer.work import refresh_now

    asked = {name: value for name, value in recipe.items() if value is not None}
    with _trainer() as (client, here):
        job = refresh_now(client, here, alias, {"recipe": asked}, click.echo)
    _tell(job)


@command.command("work")
@process
def work() -> None:
    """Claim and run jobs in the foreground, one at a time, until SIGTERM."""
    from trainer.work import Stopping
    from trainer.work import work as run

    def stop(*_: object) -> None:
        # Raised wherever the work stands; the job is given back on the way out.
        raise Stopping

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        with _trainer() as (client, here):
            run(client, here, click.echo, threading.Event())
    except Stopping:
        click.echo("stopped")


@command.command("watch")
@click.argument("alias", required=False)
def watch(alias: str | None) -> None:
    """Show the latest jobs (of ALIAS)."""
    with _trainer() as (client, _):
        jobs = client.get("/jobs", **({"alias": alias} if alias else {}))["data"]
    for job in jobs:
        result = job["result"] or {}
        said = job["reason"] or " ".join(filter(None, [result.get("model"), result.get("verdict")]))
        click.echo(
            f"{job['id']}  {job['alias']}  {job['state']:<9}  {job['stage'] or '-':<9}  {said}"
        )


@command.command("evaluate")
@click.argument("model")
@click.option("--alias", help="Whose golden set; default: the model's own alias.")
def evaluate(model: str, alias: str | None) -> None:
    """Measure MODEL (`support@3`, or `base`) on an alias's golden set."""
    from trainer.golden import evaluate_once
    from trainer.metrics import summary

    with _trainer() as (client, here):
        _, found = evaluate_once(client, here, alias or model.partition("@")[0], model, click.echo)
    for name, figures in summary(found).items():
        click.echo(
            f"{model}  {name or '-'}: exact match {figures['exact_match']:.3f},"
            f" F1 {figures['f1']:.3f}, {figures['n']} items"
        )


@command.command("gate")
@click.argument("candidate")
@click.argument("against")
@click.option("--slice", "slices", multiple=True, required=True, help="Must be better on it.")
def gate(candidate: str, against: str, slices: tuple[str, ...]) -> None:
    """Compare CANDIDATE (`support@3`) with AGAINST (`support@2`, or `base`) and print the report.

    Nothing is published by it. Ends with 0 for PASS and 3 for anything else.
    """
    from trainer.gate.judge import judge
    from trainer.gate.policy import load_policy
    from trainer.golden import evaluate_once

    alias = candidate.partition("@")[0]
    with _trainer() as (client, here):
        one = evaluate_once(client, here, alias, candidate, click.echo)[1]
        other = evaluate_once(client, here, alias, against, click.echo)[1]
    policy = load_policy(here.settings.gate_policy).for_alias(alias)
    report = judge(one, other, policy, frozenset(slices))
    click.echo(report.to_markdown())
    if report.verdict != "PASS":
        raise SystemExit(3)


def _tell(job: dict[str, Any]) -> None:
    if job["state"] != "done":
        fail(f"the refresh of {job['alias']} {job['state']}: {job['reason']}")
    result = job["result"]
    click.echo(f"{result['model']}: gate {result['verdict']}")
    if not result["published"]:
        raise SystemExit(3)


@contextmanager
def _trainer() -> Iterator[tuple[AdminClient, Surroundings]]:
    config = configuration()
    from deploy.compose import NoTrainer, trainer_surroundings
    from trainer.client import AdminClient
    from trainer.errors import TrainerError

    try:
        here = trainer_surroundings(config)
        with AdminClient(here.url, here.key) as client:
            yield client, here
    except (NoTrainer, TrainerError) as error:
        fail(f"adapterloop trainer: {error}")
