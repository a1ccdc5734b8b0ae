from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.demo import story
from deploy.demo.api import Gateway
from deploy.demo.story import Demo, DemoFailed, shuffled
from deploy.progress import Progress
from trainer.rows import Row
from trainer.runs import Run


class Scripted(Gateway):
    """A gateway whose refresh ends at once with the given verdict."""

    def __init__(self, verdict: str, stable: int = 0) -> None:
        super().__init__("", {})
        self.imported = b""
        self.job: dict[str, Any] = {
            "id": "job",
            "state": "done",
            "stage": "publish",
            "result": {"verdict": verdict},
            "stages": {"evaluate": {"evaluations": {}}, "gate": {"ids": {}}},
        }
        self._alias = {"alias": "support", "stable": stable, "candidate": None}

    def admin(self, method: str, path: str, **options: Any) -> Any:
        match method, path:
            case "POST", "/imports/support":
                self.imported = options["files"]["file"][1]
                return {"imported": 150, "read": 150}
            case "GET", "/adapters":
                return {"data": []}
            case "GET", "/adapters/support":
                return self._alias
            case _:
                return self.job


def control(gateway: Gateway, folder: Path) -> Demo:
    return Demo(gateway, folder, Progress(), quick=True)


def test_the_control_ends_well_when_the_gate_stops_it(tmp_path: Path) -> None:
    gateway = Scripted("FAIL")
    control(gateway, tmp_path).control()
    assert gateway.imported.count(b"\n") == 150


@pytest.mark.parametrize(
    ("gateway", "said"),
    [(Scripted("PASS"), "let a version"), (Scripted("FAIL", stable=1), "no longer leads")],
)
def test_the_control_fails_when_anything_came_through(
    gateway: Gateway, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DemoFailed, match=said):
        control(gateway, tmp_path).control()


def test_no_row_keeps_its_own_answer() -> None:
    rows = [Row(f"r{n}", "i", f"q{n}", f"a{n}") for n in range(5)]
    mixed = shuffled(rows)
    assert [row.input for row in mixed] == [row.input for row in rows]
    assert sorted(row.output for row in mixed) == [row.output for row in rows]
    assert all(new.output != old.output for new, old in zip(mixed, rows, strict=True))


class Clock:
    """Time that passes when somebody sleeps; training gets on by itself as long as it may."""

    def __init__(self, run: Run, steps: int) -> None:
        self._now, self._run, self._steps = 0.0, run, steps

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _: float) -> None:
        self._now += 1000.0
        if (step := int(self._now / 1000)) <= self._steps:
            seen = {"step": step, "steps": 9, "losses": {"1": 0.5}, "seconds": self._now}
            self._run.write(self._run.progress, seen)


def test_training_may_take_its_time_as_long_as_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Scripted("PASS")
    gateway.job |= {"state": "running", "stage": "train"}
    run = Run(tmp_path / "job")
    run.root.mkdir()
    monkeypatch.setattr(story, "time", Clock(run, steps=9))
    with pytest.raises(DemoFailed, match="still at train"):
        control(gateway, tmp_path).control()
    assert run.read_progress()["step"] == 9
