"""Which worker takes a call: waits for one, loads on demand, keeps count of what is in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.choose import choose, served_name
from gateway.errors import GatewayError, NoWorker
from gateway.registry.snapshot import Placement, Snapshot, Version, WorkerSpec
from gateway.workers.admin import Ask
from gateway.workers.loader import Loader
from gateway.workers.probe import Observed, WorkerWatch

logger = logging.getLogger(__name__)

_SLACK = 2


class Target(NamedTuple):
    """A worker, the name under which it knows the version, and the fields that choose it there."""

    worker: WorkerSpec
    name: str
    ask: Ask


class Router:
    """Chooses workers for versions over the latest snapshot and observations."""

    def __init__(self, watch: WorkerWatch, loader: Loader, group: asyncio.TaskGroup) -> None:
        self.snapshot: Snapshot | None = None
        self.per_worker: Counter[str] = Counter()
        self.per_version: Counter[str] = Counter()
        self._watch = watch
        self._loader = loader
        self._group = group
        self._loading: set[tuple[str, int]] = set()

    def update(self, snapshot: Snapshot) -> None:
        """Route by this snapshot from now on."""
        self.snapshot = snapshot
        self._watch.set_workers(snapshot.workers.values())

    def busy(self) -> list[str]:
        """Worker-side names that have calls in flight here."""
        return [name for name, count in self.per_version.items() if count > 0]

    def suspect(self, worker: str) -> None:
        """Have a worker probed that failed a call."""
        self._watch.suspect(worker)

    async def target(
        self, version: Version, session: str, deadline: float, avoid: Mapping[str, Observed | None]
    ) -> Target:
        """Give a worker that was proven to serve the version; wait for one until `deadline`.

        `deadline` is in the loop's time; `avoid` holds workers that just failed this call, with
        what was observed then: they count again once something newer is known of them (None:
        never again). Raises `NoWorker` when the deadline passes.
        """
        loop = asyncio.get_running_loop()
        while True:
            target = self._pick(version, session, avoid)
            if target is not None:
                return target
            self._load_on_demand(version)
            remaining = deadline - loop.time()
            if remaining <= 0 or not await self._watch.wait_change(remaining):
                raise NoWorker(
                    f"No worker that serves '{version.model}' is ready: try again shortly."
                )

    def begin(self, target: Target) -> None:
        """Count a call that goes out; `end` must follow."""
        self.per_worker[target.worker.name] += 1
        self.per_version[target.name] += 1

    def end(self, target: Target) -> None:
        """Count a call that is over."""
        self.per_worker[target.worker.name] -= 1
        self.per_version[target.name] -= 1
        if not self.per_version[target.name]:
            del self.per_version[target.name]

    def _placements(self, version: Version) -> tuple[Placement, ...]:
        return self.snapshot.placements.get(version.id, ()) if self.snapshot else ()

    def _pick(
        self, version: Version, session: str, avoid: Mapping[str, Observed | None]
    ) -> Target | None:
        observed = self._watch.observed
        if avoid:
            observed = {
                name: seen
                for name, seen in observed.items()
                if name not in avoid or avoid[name] not in (None, seen)
            }
        name = choose(
            version, self._placements(version), observed, self.per_worker, session, slack=_SLACK
        )
        spec = self.snapshot.workers.get(name) if self.snapshot and name else None
        if name is None or spec is None:
            return None
        served = served_name(version, observed[name])
        return Target(spec, served, observed[name].asks.get(served) or Ask(served))

    def observed(self, worker: str) -> Observed | None:
        """What was last observed of a worker."""
        return self._watch.observed.get(worker)

    def all_observed(self) -> Iterable[Observed]:
        """What was last observed of every worker."""
        return self._watch.observed.values()

    def _load_on_demand(self, version: Version) -> None:
        """Have the least busy worker load a version that nobody holds; the loader joins doubles."""
        if version.is_base:
            return
        known = {p.worker for p in self._placements(version) if not p.routable}
        able = [
            seen
            for seen in self._watch.observed.values()
            if seen.healthy and seen.fits(version) and seen.worker not in known
        ]
        if not able:
            return
        worker = min(able, key=lambda seen: (seen.running + seen.waiting, seen.worker)).worker
        key = (worker, version.id)
        if key not in self._loading:
            self._loading.add(key)
            self._group.create_task(self._load(worker, version), name=f"load {version.model}")

    async def _load(self, worker: str, version: Version) -> None:
        try:
            await self._loader.ensure(worker, version)
        except GatewayError as error:
            logger.warning("loading %s on %s: %s", version.model, worker, error)
            # The next caller may try again, but not in a tight circle.
            await asyncio.sleep(1.0)
        finally:
            self._loading.discard((worker, version.id))
