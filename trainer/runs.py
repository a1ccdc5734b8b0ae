"""A training run as a folder: what it is to do, how far it has come, and what it made."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import RunBusy


@dataclass(frozen=True, slots=True)
class Run:
    """Names of the files in a run's folder."""

    root: Path

    @property
    def order(self) -> Path:
        """What to train: alias, model, recipe, data set, threads."""
        return self.root / "order.json"

    @property
    def rows(self) -> Path:
        return self.root / "rows.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def progress(self) -> Path:
        return self.root / "progress.json"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def is_trained(self) -> bool:
        """Whether the adapter is whole: its manifest is written last."""
        return (self.adapter / "manifest.json").exists()

    def read_progress(self) -> dict[str, Any]:
        """Give how far the training has come, {} before its first step."""
        try:
            value = json.loads(self.progress.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write(self, path: Path, value: Any) -> None:
        """Write JSON; a reader sees the old file or the new one, whole."""
        draft = path.with_name(f".{path.name}")
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder. Raises RunBusy where another process trains in it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunBusy from None
            yield
