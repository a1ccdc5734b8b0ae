"""The admin side of a worker: what it serves, how it fares, and changes to what it serves.

`WorkerAdmin` is the seam; each kind of worker has a module beside this one, and `kinds.py` knows
them all. Completions for clients do not pass here: this is for probes, loads and verification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """How a request chooses a model on its worker: by `model`, and `more` fields as JSON."""

    model: str
    more: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a worker answers with; `parent` is None for a base model.

    `name` is the one that versions go by, `root` the files where they are known. `ask` is None
    where a request chooses the model by `name` alone.
    """

    name: str
    root: str
    parent: str | None
    ask: Ask | None = None
    context: int | None = None

    @property
    def is_base(self) -> bool:
        """Whether this is a model of its own rather than an adapter of one."""
        return self.parent is None


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """A worker's own figures; `boot` is None where it does not tell when it started.

    `active` are the adapters in the batch that it last ran. Who is `asleep` has given its memory
    away and answers nothing until it is woken.
    """

    boot: str | None = None
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    active: frozenset[str] = frozenset()
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of worker can do, declared rather than guessed.

    `runtime_load`: adapters come and go while it runs; without, it holds what it lists.
    `forced_tokens`: it tells how likely given tokens are, so that a proof of effect is possible.
    """

    runtime_load: bool
    forced_tokens: bool


class WorkerAdmin(Protocol):
    """What the control side needs of one worker.

    Every method raises `WorkerUnreachable` where no usable answer comes, and its kind `WorkerSlow`
    where that is for lack of time. What a kind cannot do is never asked of it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this worker can do."""
        ...

    async def health(self) -> bool:
        """Whether the worker says that it can serve."""
        ...

    async def models(self) -> tuple[ServedModel, ...]:
        """Every base model and adapter that the worker answers with."""
        ...

    async def load(self, name: str, path: str) -> None:
        """Make the adapter at `path` answer to `name`; a name that already leads there is fine.

        Raises `LoadRefused` where the worker says no, `NameTaken` where the name leads elsewhere.
        """
        ...

    async def unload(self, name: str) -> None:
        """Take an adapter away; an unknown name is fine."""
        ...

    async def metrics(self) -> WorkerMetrics:
        """The worker's own figures, empty where it publishes none."""
        ...

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """Log-probability under `model` of each token from `answer_start` on.

        Never disturbs the calls that run beside it. Raises `MeasureFailed` where the worker
        answers without them.
        """
        ...
