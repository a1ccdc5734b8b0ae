"""What a model in the guard process looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from guardrails.types import Finding, Passage


class Model(Protocol):
    """A guard's model. Runs in one thread, on batches; offsets are relative to a passage's text."""

    name: str
    version: str

    def run(self, passages: Sequence[Passage]) -> list[list[Finding]]:
        """Give the findings of each passage, with scores in 0..1."""
        ...
