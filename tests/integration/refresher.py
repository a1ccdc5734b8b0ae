"""A trainer as a process of its own, whose training makes a tiny adapter out of nothing.

python -m tests.integration.refresher URL TRAINER_KEY EVALUATION_KEY FOLDER
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.integration.adapters import add_fingerprint, make_adapter
from trainer import refresh
from trainer.client import AdminClient
from trainer.runs import Run
from trainer.settings import EvaluationSettings, Surroundings, TrainerSettings
from trainer.work import work


def train(run: Run, check: Callable[[], None], say: Callable[[str], None]) -> None:
    """Take a while, then write an adapter that follows from the rows."""
    if run.is_trained:
        return
    for _ in range(10):
        check()
        time.sleep(0.05)
    draft = run.root / f"draft-{time.monotonic_ns()}"
    add_fingerprint(make_adapter(draft, seed=zlib.crc32(run.rows.read_bytes())))
    draft.replace(run.adapter)


def main(url: str, key: str, evaluation_key: str, folder: str) -> None:
    """Work until killed."""
    refresh.run_training = train
    settings = TrainerSettings(evaluation=EvaluationSettings(max_tokens=8, patience=120))
    here = Surroundings(url, key, evaluation_key, Path(folder), Path(folder) / "runs", settings)
    with AdminClient(url, key) as client:
        work(client, here, lambda line: print(line, flush=True), threading.Event())  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
