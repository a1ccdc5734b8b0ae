"""Toxicity by Detoxify from a local checkpoint: the strong choice, for production.

A checkpoint is a pickle, which runs code when it is loaded: only use files that you trust.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guardrails.errors import GuardError
from guardrails.models.reading import readings, worst
from guardrails.types import Finding, Passage


class Detoxify:
    """Scores each passage under every label of the checkpoint (`toxicity`, `insult`, ...).

    Works without a network if `config.arch.args.model_type` in the checkpoint is a local path, or
    with `model_config`, the folder of the Hugging Face configuration and tokenizer.
    """

    name = "toxicity"

    def __init__(self, checkpoint: Path, model_config: Path | None = None) -> None:
        for path in (checkpoint, model_config):
            if path is not None and not path.exists():
                raise GuardError(f"Detoxify needs {path}, which is not there.")
        import detoxify
        import torch

        # The guard's thread is one of many processes on the machine.
        torch.set_num_threads(1)
        self._model: Any = detoxify.Detoxify(
            checkpoint=str(checkpoint),
            huggingface_config_path=str(model_config) if model_config else None,
        )
        package = importlib.metadata.version("detoxify")
        self.version = f"detoxify {package} {checkpoint.name}"

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        """Give one finding for each label of each passage."""
        texts = [readings(passage) for passage in passages]
        counts = [len(each) for each in texts]
        # A list of one would come back as bare numbers.
        flat = [text for each in texts for text in each] + [""]
        labels: dict[str, list[float]] = self._model.predict(flat)
        scores = {label: worst(values, counts) for label, values in labels.items()}
        return [
            [
                Finding(self.name, label, 0, len(passage.text), float(values[index]))
                for label, values in scores.items()
            ]
            for index, passage in enumerate(passages)
        ]
