from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.trainer.fake_gateway import FakeGateway
from trainer import golden, refresh
from trainer.client import AdminClient
from trainer.errors import GatewayAway
from trainer.evaluation import Answer, Evaluation
from trainer.recipe import Recipe
from trainer.runs import Run
from trainer.settings import Surroundings, TrainerSettings
from trainer.work import Stopping, refresh_now, run_job

STAGES = ("snapshot", "train", "register", "evaluate", "gate", "publish")
GOLDEN = [
    {
        "id": f"g{n}",
        "instruction": "Sort.",
        "input": f"ticket {n}",
        "output": f"answer {n}",
        "slice": "triage" if n < 60 else "facts",
    }
    for n in range(100)
]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it and nothing is said to anyone."""


class World:
    """A gateway in memory, a training that only writes files, models that answer by rule."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway = FakeGateway()
        self.gateway.golden["support"] = GOLDEN
        self.gateway.rows = [{**row, "id": f"t{n}"} for n, row in enumerate(GOLDEN[:60])]
        self.right = {"base": 0, "support@1": 50}
        self.trained: list[str] = []
        self.measured: list[str] = []
        self.said: list[str] = []
        self.die_after: Callable[[str], bool] = lambda call: False
        self.here = Surroundings(
            "http://gateway", "sk-t", "sk-e", folder / "tiny", folder / "runs", TrainerSettings()
        )
        monkeypatch.setattr(refresh, "run_training", self._train)
        monkeypatch.setattr(golden, "measure", self._measure)

    def client(self) -> AdminClient:
        def answer(request: httpx.Request) -> httpx.Response:
            response = self.gateway(request)
            if self.die_after(f"{request.method} {request.url.path}"):
                raise Killed
            return response

        transport = httpx.MockTransport(answer)
        return AdminClient("http://g", "sk", patience=0, transport=transport)

    def run(self, job: dict[str, Any], holder: str = "me") -> dict[str, Any]:
        job.update(state="running", lease_holder=holder)
        return run_job(self.client(), self.here, dict(job), holder, self.said.append)

    def _train(self, run: Run, check: Callable[[], None], say: Callable[[str], None]) -> None:
        if run.is_trained:
            return
        self.trained.append(run.root.name)
        run.adapter.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "manifest.json"):
            (run.adapter / name).write_text(f"{name} of {run.root.name}", encoding="utf-8")
        run.write(run.progress, {"step": 60, "steps": 60, "seconds": 1.0, "losses": {}})

    def _measure(
        self, url: str, key: str, model: str, rows: Any, digest: str, *_: Any
    ) -> Evaluation:
        assert key == "sk-e"
        self.measured.append(model)
        right = self.right[model]
        return Evaluation(
            model,
            digest,
            tuple(
                Answer(r.id, r.slice, r.input, r.output, r.output if n < right else "no")
                for n, r in enumerate(rows)
            ),
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_refresh_that_passes_is_published(world: World) -> None:
    ended = world.run(world.gateway.add_job())
    assert ended["state"] == "done"
    assert list(ended["stages"]) == list(STAGES)
    assert ended["result"]["model"] == "support@1"
    assert ended["result"]["verdicts"] == {"base": "PASS"}
    assert world.gateway.published == [1]
    assert world.measured == ["base", "support@1"]
    (gate,) = world.gateway.gates
    assert (gate["candidate"], gate["against"]) == ("support@1", "base")
    assert gate["report"]["markdown"].startswith("#")


@pytest.mark.parametrize("stable", [0, None])
def test_a_version_is_compared_with_its_own_base(world: World, stable: int | None) -> None:
    world.gateway.base = "qwen"
    world.gateway.stable["support"] = stable
    world.right["qwen"] = 0
    ended = world.run(world.gateway.add_job())
    assert ended["result"]["verdicts"] == {"qwen": "PASS"}
    assert world.measured == ["qwen", "support@1"]


def test_what_does_not_get_better_is_not_published(world: World) -> None:
    world.right["support@1"] = 0
    ended = world.run(world.gateway.add_job())
    assert ended["state"] == "done"
    assert ended["result"]["verdict"] == "INCONCLUSIVE"
    assert not ended["result"]["published"]
    assert world.gateway.published == []


def test_new_defaults_of_an_alias_are_measured_anew(world: World) -> None:
    world.run(world.gateway.add_job())
    model = ("support", "support@1")
    for options, times in (
        ({"system_prompt": "Be kind.", "fallback": ["base"]}, 1),  # rows bring their own
        ({"repetition_penalty": 1.1}, 2),
        ({"repetition_penalty": 1.1}, 2),
        ({}, 2),
    ):
        world.gateway.options = options
        golden.evaluate_once(world.client(), world.here, *model, world.said.append)
        assert world.measured.count("support@1") == times


def test_versions_are_measured_once_for_a_golden_set(world: World) -> None:
    world.run(world.gateway.add_job())
    world.gateway.stable["support"] = 1
    world.right["support@2"] = 60
    world.here = Surroundings(
        **{
            **{name: getattr(world.here, name) for name in Surroundings.__slots__},
            "settings": TrainerSettings(anchor=0),
        }
    )
    ended = world.run(world.gateway.add_job())
    assert world.measured == ["base", "support@1", "support@2"]
    assert ended["result"]["verdicts"] == {"support@1": "PASS", "base": "PASS"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recorded", [True, False])
def test_killed_in_any_stage_it_goes_on_and_registers_once(
    world: World, stage: str, recorded: bool
) -> None:
    """Killed as a stage begins, and when its work is done but not told to anyone yet."""
    job = world.gateway.add_job()
    seen: list[str] = []

    def die(call: str) -> bool:
        seen.append(call)
        if recorded:
            return job["stage"] == stage and call.endswith("/heartbeat")
        return stage in job["stages"] or (call.endswith("/stages") and job["stage"] == stage)

    world.die_after = die
    with pytest.raises(Killed):
        world.run(job)
    assert job["state"] == "running"

    world.die_after = lambda call: False
    ended = world.run(job, holder="the next one")
    assert ended["state"] == "done"
    assert [v["version"] for v in world.gateway.versions["support"]] == [1]
    assert world.trained == [job["id"]]
    assert world.gateway.published == [1]


def test_a_trainer_that_is_told_to_stop_gives_the_job_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Stopping

    monkeypatch.setattr(refresh, "run_training", stop)
    job = world.gateway.add_job()
    with pytest.raises(Stopping):
        world.run(job)
    assert (job["state"], job["lease_holder"]) == ("queued", None)


def test_a_gateway_that_stays_away_leaves_the_job_to_the_next_claim(world: World) -> None:
    job = world.gateway.add_job()
    world.gateway.trouble = [httpx.ConnectError("refused")]
    with pytest.raises(GatewayAway):
        world.run(job)
    assert job["state"] == "running"


def never_verified(world: World) -> None:
    settings = TrainerSettings(verify_seconds=0.01)
    world.here = replace(world.here, settings=settings)
    world.gateway.verified_state = "registered"
    world.gateway.waiting = "a worker runs without it"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda w: w.gateway.golden.clear(), "no golden set to measure a candidate on"),
        (lambda w: w.gateway.rows.clear(), "3 rows are golden items"),
        (
            lambda w: w.gateway.rows.__delitem__(slice(5, None)),
            "has 5 rows, and a refresh needs 20",
        ),
        (lambda w: setattr(w.gateway, "verified_state", "rejected"), "rejected: has no effect"),
        (never_verified, "still registered: a worker runs without it"),
    ],
)
def test_what_cannot_be_done_fails_with_its_reason(
    world: World, spoil: Callable[[World], None], reason: str
) -> None:
    spoil(world)
    ended = world.run(world.gateway.add_job())
    assert ended["state"] == "failed"
    assert reason in ended["reason"]


def test_a_job_may_set_its_own_recipe(world: World) -> None:
    job = world.gateway.add_job(parameters={"recipe": {"rank": 8}})
    made = refresh.Refresh(job, world.here, world.client(), None, print)  # type: ignore[arg-type]
    assert made.recipe() == Recipe(rank=8)


def test_an_unknown_alias_is_refused_in_words(world: World) -> None:
    with pytest.raises(Exception, match="There is no alias 'nobody'"):
        refresh_now(world.client(), world.here, "nobody", {}, world.said.append)


def test_a_refresh_in_the_foreground_runs_the_job_that_it_made(world: World) -> None:
    ended = refresh_now(world.client(), world.here, "support", {}, world.said.append)
    assert ended["state"] == "done"
    assert any("gate against base: PASS" in line for line in world.said)
