"""The training process of a run: `python -m trainer.train FOLDER`, ended with its parent.

A process of its own, so that what claims jobs stays small, and a training that hangs can be killed.
Started again, it goes on from the last checkpoint; where the adapter is whole, it ends at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from trainer.artifact import save_adapter, save_manifest
from trainer.fit import fit
from trainer.recipe import Recipe
from trainer.rows import read_rows
from trainer.runs import Run


def train(run: Run) -> None:
    """Train what `run.order` says. Raises RunBusy, and what reading the rows raises."""
    with run.alone():
        if run.is_trained:
            return
        order = json.loads(run.order.read_text(encoding="utf-8"))
        rows, model = read_rows(run.rows), Path(order["model"])
        recipe = Recipe(**order["recipe"]).for_rows(len(rows))
        before = run.read_progress()
        losses: dict[str, float] = before.get("losses", {})
        spent, started, parent = before.get("seconds", 0.0), time.monotonic(), os.getppid()

        def note(step: int, steps: int, loss: float | None) -> None:
            if os.getppid() != parent:
                raise SystemExit("the process that started this training is gone")
            if loss is not None:
                losses[str(step)] = loss
            seconds = round(spent + time.monotonic() - started, 1)
            run.write(
                run.progress, {"step": step, "steps": steps, "seconds": seconds, "losses": losses}
            )

        fitted = fit(model, rows, recipe, run.checkpoints, order["threads"], note)
        save_adapter(fitted, model.name, run.adapter)
        del fitted
        training = {**recipe.model_dump(), "run": run.root.name, "rows": len(rows)}
        save_manifest(order["alias"], model, run.adapter, rows, order["dataset"], training)


if __name__ == "__main__":
    os.nice(10)  # answers come first where worker and trainer share a machine
    train(Run(Path(sys.argv[1])))
