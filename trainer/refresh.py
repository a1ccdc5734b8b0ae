"""A refresh: snapshot -> train -> register -> evaluate -> gate -> publish.

Each stage records what it made with the job, and a stage that is recorded is not run again. What a
stage does before its record is done only once however often it is repeated: a data set is known by
its content, training goes on from its checkpoint, the same files are the same version, evaluations
and publishing are kept by what they are about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.artifact import FILES
from trainer.client import AdminClient
from trainer.errors import NoRows, VersionRefused
from trainer.evaluation import parse_evaluation
from trainer.gate.judge import judge
from trainer.gate.policy import load_policy
from trainer.golden import evaluate_once, find_version, model_name, read_golden
from trainer.lease import Lease
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.settings import Surroundings
from trainer.training import run_training

Made = Mapping[str, dict[str, Any]]
"""What earlier stages made, by stage."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """One refresh job under way. `say` shows a line to people."""

    job: Mapping[str, Any]
    here: Surroundings
    client: AdminClient
    lease: Lease
    say: Callable[[str], None]

    @property
    def alias(self) -> str:
        """The alias that gets a new version."""
        return str(self.job["alias"])

    @property
    def run(self) -> Run:
        """The folder of this job's training; the same job always has the same one."""
        return Run(self.here.runs / str(self.job["id"]))

    def to_end(self) -> dict[str, Any]:
        """Run the stages that are not recorded yet; gives the refresh's result.

        Raises `TrainerError`.
        """
        made = {name: dict(what) for name, what in self.job["stages"].items()}
        for stage, work in _STAGES.items():
            if stage in made:
                continue
            self.lease.enter(stage)
            started = time.monotonic()
            what = work(self, made)
            made[stage] = {**what, "stage_seconds": round(time.monotonic() - started, 1)}
            self.lease.made(stage, made[stage])
        return _result(self.alias, made)

    def recipe(self) -> Recipe:
        """The alias's recipe, with what the job sets otherwise."""
        asked = self.job.get("parameters", {}).get("recipe", {})
        base = self.here.settings.recipe_for(self.alias)
        return Recipe(**{**base.model_dump(), **asked})


def _snapshot(refresh: Refresh, made: Made) -> dict[str, Any]:
    """Freeze what is trained on, and make sure that it can be measured."""
    golden, digest = read_golden(refresh.client, refresh.alias)
    dataset = refresh.client.post("/datasets", {"alias": refresh.alias})
    fewest = refresh.here.settings.minimum_rows
    if dataset["rows"] < fewest:
        raise NoRows(
            f"The data set of {refresh.alias!r} has {dataset['rows']} rows, and a refresh needs"
            f" {fewest}; left out: {dataset['dropped'] or 'none'}. Import or review more."
        )
    refresh.say(f"data set {dataset['digest'][:12]}: {dataset['rows']} rows, {len(golden)} golden")
    names = ("digest", "rows", "dropped", "origins", "slices", "new_rows")
    return {**{name: dataset.get(name) for name in names}, "golden_digest": digest}


def _train(refresh: Refresh, made: Made) -> dict[str, Any]:
    run, snapshot = refresh.run, made["snapshot"]
    if not run.is_trained:
        run.root.mkdir(parents=True, exist_ok=True)
        response = refresh.client.text(f"/datasets/{snapshot['digest']}/rows")
        run.rows.write_text(response.text, encoding="utf-8")
        run.write(
            run.order,
            {
                "alias": refresh.alias,
                "model": str(refresh.here.model),
                "recipe": refresh.recipe().model_dump(),
                "dataset": {"sha256": snapshot["digest"], "rows": snapshot["rows"]},
                "threads": refresh.here.settings.threads,
            },
        )
    run_training(run, refresh.lease.check, refresh.say)
    progress = run.read_progress()
    return {name: progress.get(name) for name in ("steps", "seconds")}


def _register(refresh: Refresh, made: Made) -> dict[str, Any]:
    """Hand the files in, and wait until a worker has proven that they have effect."""
    folder, alias = refresh.run.adapter, refresh.alias
    files = {name: (folder / name).read_bytes() for name in FILES}
    version = refresh.client.upload(f"/adapters/{alias}/versions", files)
    number = int(version["version"])
    refresh.say(f"registered as {alias}@{number}")
    deadline = time.monotonic() + refresh.here.settings.verify_seconds
    while True:
        entry = find_version(refresh.client, alias, number)
        if entry["state"] in ("candidate", "serving"):
            return {"version": number, "sha256": entry["sha256"]}
        if entry["state"] not in ("registered", "verifying"):
            said = entry["events"][-1]["reason"] if entry.get("events") else ""
            raise VersionRefused(f"{alias}@{number} is {entry['state']}: {said}")
        if time.monotonic() > deadline:
            why = entry.get("waiting") or "no worker proves it"
            raise VersionRefused(f"{alias}@{number} is still {entry['state']}: {why}")
        refresh.lease.check()
        time.sleep(0.5)


def _evaluate(refresh: Refresh, made: Made) -> dict[str, Any]:
    """Measure the candidate, what serves now, and the anchor, each once per golden set."""
    candidate = f"{refresh.alias}@{made['register']['version']}"
    told = refresh.client.get(f"/adapters/{refresh.alias}")
    against = [model_name(refresh.alias, told["stable"], told["base"])]
    if (anchor := refresh.here.settings.anchor) is not None:
        model = model_name(refresh.alias, anchor, told["base"])
        against += [model] if model not in (*against, candidate) else []
    digests = {}
    for model in (*against, candidate):
        digests[model] = evaluate_once(
            refresh.client, refresh.here, refresh.alias, model, refresh.say, refresh.lease.check
        )[0]
    return {"candidate": candidate, "against": against, "evaluations": digests}


def _gate(refresh: Refresh, made: Made) -> dict[str, Any]:
    found = made["evaluate"]
    evaluations = {
        model: parse_evaluation(refresh.client.get(f"/evaluations/{digest}"))
        for model, digest in found["evaluations"].items()
    }
    candidate = evaluations[found["candidate"]]
    policy = load_policy(refresh.here.settings.gate_policy).for_alias(refresh.alias)
    target = frozenset(made["snapshot"]["slices"]) & {a.slice for a in candidate.answers}
    verdicts, ids = {}, {}
    for model in found["against"]:
        report = judge(candidate, evaluations[model], policy, target)
        kept = refresh.client.post(
            "/gates",
            {
                "alias": refresh.alias,
                "candidate": found["candidate"],
                "against": model,
                "verdict": report.verdict,
                "report": {**report.to_dict(), "markdown": report.to_markdown()},
                "job_id": refresh.job["id"],
            },
        )
        verdicts[model], ids[model] = report.verdict, kept["id"]
        (refresh.run.root / f"gate-{model}.md").write_text(report.to_markdown(), encoding="utf-8")
        refresh.say(f"gate against {model}: {report.verdict}; {' '.join(report.reasons)}")
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    return {"verdict": min(verdicts.values(), key=order.index), "verdicts": verdicts, "ids": ids}


def _publish(refresh: Refresh, made: Made) -> dict[str, Any]:
    """Start the canary; only PASS goes on by itself."""
    number, verdict = made["register"]["version"], made["gate"]["verdict"]
    if verdict != "PASS":
        refresh.say(f"{refresh.alias}@{number} is not published: the gate says {verdict}")
        return {"published": False}
    told = refresh.client.post(
        f"/adapters/{refresh.alias}/publish", {"version": number, "job_id": refresh.job["id"]}
    )
    refresh.say(f"{refresh.alias}@{number} is published")
    return {"published": True, "alias": told}


_STAGES: Mapping[str, Callable[[Refresh, Made], dict[str, Any]]] = {
    "snapshot": _snapshot,
    "train": _train,
    "register": _register,
    "evaluate": _evaluate,
    "gate": _gate,
    "publish": _publish,
}


def _result(alias: str, made: Made) -> dict[str, Any]:
    return {
        "version": made["register"]["version"],
        "model": f"{alias}@{made['register']['version']}",
        "verdict": made["gate"]["verdict"],
        "verdicts": made["gate"]["verdicts"],
        "published": made["publish"]["published"],
        "seconds": {name: what.get("stage_seconds") for name, what in made.items()},
    }
