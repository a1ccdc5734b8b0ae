"""A worker without a network: the admin side of vLLM in memory, with its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.registry.snapshot import Version, VersionState, WorkerSpec
from gateway.workers.admin import Capabilities, ServedModel, WorkerMetrics
from gateway.workers.errors import LoadRefused, WorkerSlow, WorkerUnreachable

BASE = "base@0"


class FakeWorker:
    """Serves `base@0`; `deltas` tells by how much an adapter shifts each log-probability.

    With another `base` it was started with a merged model, which shifts them too.
    """

    capabilities = Capabilities(runtime_load=True, forced_tokens=True)

    def __init__(self, name: str = "w1") -> None:
        self.spec = WorkerSpec(name, f"http://{name}")
        self.up = True
        self.slow = False
        self.asleep = False
        self.base = BASE
        self.boot: str | None = "100.00"
        self.loaded: dict[str, str] = {}
        self.deltas: dict[str, float] = {}
        self.delta = 1.0
        self.refuse = ""
        self.forget_after_load = False
        self.log: list[str] = []
        self.loading = 0
        self.max_loading = 0
        self.pause = 0.0
        self.waiting = 0
        self.running = 0
        self.kv_usage = 0.0

    def restart(self) -> None:
        """Come back as another process, with nothing loaded."""
        self.loaded.clear()
        if self.boot is not None:
            self.boot = f"{float(self.boot) + 1:.2f}"

    def _check(self) -> None:
        if not self.up:
            raise WorkerUnreachable("connection refused")
        if self.slow:
            raise WorkerSlow("took too long")

    async def health(self) -> bool:
        """Up or not."""
        self._check()
        return True

    async def models(self) -> tuple[ServedModel, ...]:
        """The base and what was loaded."""
        self._check()
        adapters = (ServedModel(name, path, self.base) for name, path in self.loaded.items())
        return (ServedModel(self.base, "/models/base", None), *adapters)

    async def load(self, name: str, path: str) -> None:
        """Load, noting how many loads run at once."""
        self._check()
        self.log.append(f"load {name}")
        if self.refuse:
            raise LoadRefused(self.refuse)
        self.loading += 1
        self.max_loading = max(self.max_loading, self.loading)
        await asyncio.sleep(self.pause)
        self.loading -= 1
        self.loaded[name] = path
        if self.forget_after_load:
            self.restart()

    async def unload(self, name: str) -> None:
        """Unload, whether there or not."""
        self._check()
        self.log.append(f"unload {name}")
        self.loaded.pop(name, None)

    async def metrics(self) -> WorkerMetrics:
        """What the test says."""
        self._check()
        return WorkerMetrics(
            self.boot, self.running, self.waiting, self.kv_usage, asleep=self.asleep
        )

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """-3 per token under the base, shifted under an adapter."""
        self._check()
        if model != self.base and model not in self.loaded:
            raise WorkerUnreachable("no such model")
        self.log.append(f"measure {model}")
        shift = 0.0 if model == BASE else self.deltas.get(model, self.delta)
        return [-3.0 + shift] * (len(token_ids) - answer_start)


def version(
    id_: int = 1,
    *,
    alias: str = "support",
    state: VersionState = VersionState.REGISTERED,
    draining_since: int | None = None,
    rank: int = 8,
) -> Version:
    """A version whose number and digest follow from its id."""
    return Version(
        id=id_,
        tenant="default",
        alias=alias,
        number=id_,
        sha256=f"{id_:08x}" * 8,
        path=f"/adapters/{id_}",
        base_model="base",
        rank=rank,
        state=state,
        draining=draining_since is not None,
        draining_since=draining_since,
    )


def base_version() -> Version:
    """The base model as a version."""
    return Version(0, "*", "base", 0, "ab" * 32, "", "base", 0, VersionState.SERVING)


def fingerprint(delta: float = 1.0, prompts: int = 4) -> dict[str, object]:
    """What a trainer would have written for an adapter that shifts by `delta`."""
    return {
        "prompts": [{"token_ids": [1, 2, 3, 4 + row], "answer_start": 2} for row in range(prompts)],
        "base_mean": [-3.0] * prompts,
        "adapter_mean": [-3.0 + delta] * prompts,
    }
