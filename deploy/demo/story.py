"""The demo: two nights of the whole loop, told as it happens.

Night 1 trains on imported tickets and is compared with the base model. On day 2 the new version
answers tickets it has not seen; what was doubtful or flagged is corrected. Night 2 trains on all of
it and is compared with night 1's version. Everything goes over the HTTP API.

The control is a night whose tickets have each other's answers: the gate must stop what comes of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.demo import day
from deploy.demo.api import Gateway, jsonl
from deploy.demo.report import Report
from deploy.demo.traffic import Traffic
from deploy.progress import Progress
from trainer.evaluation import parse_evaluation
from trainer.metrics import summary
from trainer.rows import Row, read_rows
from trainer.runs import Run
from trainer.training import progress_line

DATA = Path(__file__).parents[1] / "examples" / "acme" / "data"
FIRST, SECOND = 150, 350
QUICK_GOLDEN = {"triage": 24, "facts": 36}
"""Fewer questions could not rule out a loss of the gate's margin, however right the answers are."""
_STILL_S, _CANARY_S, _POLL_S = 2700.0, 900.0, 1.0
"""A job may stay where it is for so long; one that trains moves by its steps."""


class DemoFailed(Exception):
    """The loop did not close; the message says where."""


@dataclass
class Demo:
    """One run of the demo on a gateway that is up. `runs` is where the trainer keeps its runs."""

    gateway: Gateway
    runs: Path
    progress: Progress
    quick: bool = False
    report: Report = field(default_factory=Report)
    alias: str = ""
    stable: str = "base@0"

    def play(self) -> Report:
        """Play all of it. Raises DemoFailed, and what the API raises."""
        tickets = _tickets()
        self._begin(tickets[:FIRST])
        self._night(1)
        if not self.quick:
            self._day(tickets[FIRST : FIRST + SECOND])
            self._night(2)
        return self.report

    def control(self) -> Report:
        """Play a night on shuffled answers. Raises DemoFailed where the gate lets it through."""
        self._begin(shuffled(_tickets()[:FIRST]))
        job = self._follow(str(self._refresh("control")["id"]), set())
        self._keep(job)
        if job["result"]["verdict"] == "PASS":
            raise DemoFailed("control: the gate let a version trained on shuffled answers through")
        entry = self.gateway.admin("GET", f"/adapters/{self.alias}")
        if (entry["stable"], entry["candidate"]) != (0, None):
            raise DemoFailed(f"control: {self.alias} no longer leads to the base model")
        self._say("control: the gate has stopped it; the base model still answers")
        return self.report

    def _begin(self, rows: list[Row]) -> None:
        with self._timed("prepare"):
            self._prepare()
        self._say(f"{len(rows)} tickets are imported")
        with self._timed("import"):
            self._import(rows)

    def _prepare(self) -> None:
        """Take an alias that nobody has yet, let the base answer for it, and set the golden set."""
        names = ("support", "desk", *(f"desk-{number}" for number in range(2, 1000)))
        self.alias = next(name for name in names if not self._is_taken(name))
        self._say(f"the alias is `{self.alias}`; the base model answers for it so far")
        self.gateway.admin("POST", f"/adapters/{self.alias}/promote", json={"version": 0})
        golden = read_rows(DATA / "golden.jsonl")
        chosen = _spread(golden) if self.quick else golden
        path = f"/golden/{self.alias}"
        self.gateway.admin("PUT", path, content=jsonl(asdict(row) for row in chosen))

    def _is_taken(self, alias: str) -> bool:
        found = self.gateway.admin("GET", "/adapters", params={"prefix": alias, "limit": 1})["data"]
        # By name: where there is the alias itself, it comes first.
        return any(entry["alias"] == alias for entry in found)

    def _import(self, rows: list[Row]) -> None:
        content = jsonl(asdict(row) for row in rows)
        files = {"file": ("tickets.jsonl", content, "application/jsonl")}
        told = self.gateway.admin("POST", f"/imports/{self.alias}", files=files)
        self._say(f"imported {told['imported']} of {told['read']} rows")

    # -- nights ----------------------------------------------------------------------------------

    def _refresh(self, night: str) -> dict[str, Any]:
        """Refresh the alias; gives the job when the gate has spoken."""
        self._say(f"{night}: refresh of {self.alias}")
        job = self.gateway.admin("POST", "/refreshes", json={"alias": self.alias})
        with self._timed(f"{night}: until the gate"):
            job = self._follow(str(job["id"]), {"publish"})
        if job["state"] == "failed":
            raise DemoFailed(f"{night}: the refresh failed: {job['reason']}")
        return job

    def _night(self, number: int) -> None:
        job = self._refresh(f"night {number}")
        dev = read_rows(DATA / "dev.jsonl")
        candidate = f"{self.alias}@{job['stages']['register']['version']}"
        due = {self.stable, candidate}
        with (
            self._timed(f"night {number}: canary"),
            Traffic(self.gateway, self.alias, dev, due, self.report.swap),
        ):
            job = self._follow(str(job["id"]), set())
            self._keep(job)
            if job["result"]["verdict"] != "PASS":
                raise DemoFailed(f"night {number}: the gate says {job['result']['verdict']}")
            self._until_promoted(int(job["result"]["version"]))
        self.stable = candidate
        self._say(f"night {number}: {candidate} is promoted")

    def _follow(self, job_id: str, until: set[str]) -> dict[str, Any]:
        """Show a job's way until it ended or reached one of these stages."""
        shown, line, since = "", "", time.monotonic()
        while True:
            job: dict[str, Any] = self.gateway.admin("GET", f"/jobs/{job_id}")
            stage = job["stage"] or "waiting for the trainer"
            if stage != shown:
                shown, since = stage, time.monotonic()
                self._say(f"  {stage}")
            if job["state"] not in ("queued", "running") or stage in until:
                return job
            if stage == "train":
                before, line = line, progress_line(Run(self.runs / job_id))
                self.progress.ticking(f"  {line}")
                if line != before:
                    since = time.monotonic()
            if time.monotonic() - since > _STILL_S:
                raise DemoFailed(f"job {job_id} is still at {stage} after {_STILL_S:.0f} s")
            time.sleep(_POLL_S)

    def _keep(self, job: dict[str, Any]) -> None:
        """Take over what the refresh measured."""
        if job["state"] != "done":
            raise DemoFailed(f"the refresh {job['state']}: {job['reason']}")
        stages = job["stages"]
        for model, digest in stages["evaluate"]["evaluations"].items():
            found = parse_evaluation(self.gateway.admin("GET", f"/evaluations/{digest}"))
            self.report.add_golden(model, summary(found))
        for gate_id in stages["gate"]["ids"].values():
            gate = self.gateway.admin("GET", f"/gates/{gate_id}")
            self.report.add_gate(gate["report"])
            self._say(f"  gate against {gate['against']}: {gate['verdict']}")

    def _until_promoted(self, version: int) -> None:
        deadline = time.monotonic() + _CANARY_S
        while True:
            entry = self.gateway.admin("GET", f"/adapters/{self.alias}")
            if entry["stable"] == version:
                return
            if entry["candidate"] != version:
                raise DemoFailed(f"the canary of {self.alias}@{version} was rolled back")
            calls = self.report.swap.by_model.get(f"{self.alias}@{version}", 0)
            self.progress.ticking(f"  canary: {calls} answers of {self.alias}@{version} so far")
            if time.monotonic() > deadline:
                raise DemoFailed(f"{self.alias}@{version} is not promoted after {_CANARY_S:.0f} s")
            time.sleep(_POLL_S)

    # -- the day ---------------------------------------------------------------------------------

    def _day(self, rows: list[Row]) -> None:
        self._say(f"day 2: {self.alias} answers {len(rows)} tickets it has not seen")
        with self._timed("day 2: answers"):
            answered = day.answer_all(
                self.gateway,
                self.alias,
                rows,
                lambda done: self.progress.ticking(f"  {done} of {len(rows)} answers"),
            )
        right = sum(is_right for _, is_right in answered)
        self._say(f"  {right} of {len(answered)} were right")
        self.report.confidence = {"auroc": round(day.auroc(answered), 4), "n": len(answered)}
        with self._timed("day 2: review"):
            flagged = day.flag_some(self.gateway, answered)
            self.report.review = day.correct_all(self.gateway, self.alias, answered, flagged)
        self._say(f"  review: {self.report.review}")

    # -- telling ---------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self.progress.say(text)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.report.seconds[stage] = round(time.monotonic() - started, 1)


def _tickets() -> list[Row]:
    return [row for row in read_rows(DATA / "train.jsonl") if row.slice == "triage"]


def shuffled(rows: list[Row]) -> list[Row]:
    """Give every row the answer of another one, always the same way."""
    half = len(rows) // 2
    answers = [row.output for row in rows[half:] + rows[:half]]
    return [replace(row, output=answer) for row, answer in zip(rows, answers, strict=True)]


def _spread(golden: list[Row]) -> list[Row]:
    """Give some rows of each slice, from all over it."""
    chosen: list[Row] = []
    for name, number in QUICK_GOLDEN.items():
        rows = [row for row in golden if row.slice == name]
        chosen += [rows[place * len(rows) // number] for place in range(number)]
    return chosen
