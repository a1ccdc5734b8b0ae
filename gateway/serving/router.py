"""Which worker takes a call: waits for one, loads on demand, keeps count of what is in flight.

Two waits are told apart: for a worker that is *ready* (else `NoWorker`), and in the queue for one
that has *room* (else `Saturated`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from gateway.choose import able_workers, choose, served_name
from gateway.errors import GatewayError, NoWorker
from gateway.registry.snapshot import Placement, Snapshot, Version, WorkerSpec
from gateway.serving.breaker import Breakers, State
from gateway.serving.full import FullWorkers
from gateway.serving.retries import RetryBudget
from gateway.serving.waiting import Standing, WaitingRoom
from gateway.settings import QueueSettings
from gateway.workers.loader import Loader
from gateway.workers.probe import Observed, WorkerWatch

logger = logging.getLogger(__name__)

_SLACK = 2
_STALE_S = 0.25
"""Age of a reading from which on those who wait for room ask for a new one."""


class Target(NamedTuple):
    """A worker, and the name under which it knows the version."""

    worker: WorkerSpec
    name: str


class Router:
    """Chooses workers for versions over the latest snapshot and observations."""

    def __init__(
        self,
        watch: WorkerWatch,
        loader: Loader,
        group: asyncio.TaskGroup,
        settings: QueueSettings,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.per_worker: Counter[str] = Counter()
        self.per_version: Counter[str] = Counter()
        self.queue: WaitingRoom[Target] = WaitingRoom(settings, self.end)
        self.retries = RetryBudget()
        self._full = FullWorkers(settings)
        self._breakers = Breakers()
        self._watch = watch
        self._loader = loader
        self._group = group
        self._loading: set[tuple[str, int]] = set()
        watch.on_seen = self._read

    def update(self, snapshot: Snapshot) -> None:
        """Route by this snapshot from now on."""
        self.snapshot = snapshot
        self._watch.set_workers(snapshot.workers.values())
        self._full.keep(snapshot.workers)
        self._breakers.keep(snapshot.workers)
        self.queue.serve()

    def busy(self) -> list[str]:
        """Worker-side names that have calls in flight here."""
        return [name for name, count in self.per_version.items() if count > 0]

    def suspect(self, worker: str) -> None:
        """Have a worker probed that failed a call."""
        self._watch.suspect(worker)

    async def begin(
        self,
        version: Version,
        session: str,
        deadline: float,
        avoid: Mapping[str, Observed | None],
        standing: Standing,
    ) -> Target:
        """Give a worker that was proven to serve the version, and count a call; `end` must follow.

        Waits until `deadline` (in the loop's time) for one that is ready, and then in the queue for
        one that has room. `avoid` holds workers that just failed this call, with what was observed
        then: they count again once something newer is known of them (None: never again). Raises
        `NoWorker`, or `Saturated`.
        """
        loop = asyncio.get_running_loop()

        def find() -> Target | None:
            target = self._pick(version, session, avoid)
            if target is not None:
                self._take(target)
            return target

        while True:
            if self.queue:
                self.queue.serve()  # nobody who comes now goes before them
            target = find()
            if target is not None:
                return target
            if self._able(version, avoid):
                self._ask_again()
                return await self.queue.wait(find, (version.id, frozenset(avoid)), standing)
            self._load_on_demand(version)
            remaining = deadline - loop.time()
            if remaining <= 0 or not await self._watch.wait_change(remaining):
                raise NoWorker(
                    f"No worker that serves '{version.model}' is ready: try again shortly."
                )

    def end(self, target: Target, answered: bool | None = None) -> None:
        """Count a call that is over.

        `answered` says whether the worker did its part; None where that is not known, since the
        client left or was itself at fault.
        """
        worker = target.worker.name
        self.per_worker[worker] -= 1
        self.per_version[target.name] -= 1
        if not self.per_version[target.name]:
            del self.per_version[target.name]
        self._full.count(worker, self.per_worker[worker])
        if answered:
            self._breakers.answered(worker, time.monotonic())
        elif answered is not None:
            self._breakers.failed(worker, time.monotonic())
        if self.queue:
            self.queue.serve()
            self._ask_again()

    def may_retry(self) -> bool:
        """Say whether a call that failed may be tried again, and count it if so."""
        return self.retries.take(time.monotonic())

    @property
    def full(self) -> Set[str]:
        """The workers that take no further call."""
        return self._full.names

    def circuits(self) -> dict[str, State]:
        """Tell for each worker whether it gets calls."""
        states = self._breakers.states()
        names = self.snapshot.workers if self.snapshot else ()
        return {name: states.get(name, State.CLOSED) for name in names}

    def _take(self, target: Target) -> None:
        """Count a call that goes out."""
        worker, now = target.worker.name, time.monotonic()
        self.per_worker[worker] += 1
        self.per_version[target.name] += 1
        self._full.count(worker, self.per_worker[worker])
        self._breakers.tried(worker, now)
        self.retries.tried(now)

    def _read(self, seen: Observed) -> None:
        """Take note of what a worker said of itself."""
        if seen.boot:
            self._breakers.booted(seen.worker, seen.boot)
        self._full.read(seen, self.per_worker[seen.worker])
        self.queue.serve()

    def _ask_again(self) -> None:
        """Have full workers probed whose readings are old: somebody waits for room."""
        oldest = time.time() - _STALE_S
        for name in self._full.names:
            seen = self._watch.observed.get(name)
            if seen is not None and seen.at < oldest:
                self._watch.suspect(name)

    def _placements(self, version: Version) -> tuple[Placement, ...]:
        return self.snapshot.placements.get(version.id, ()) if self.snapshot else ()

    def _pick(
        self, version: Version, session: str, avoid: Mapping[str, Observed | None]
    ) -> Target | None:
        observed = self._seen_without(avoid)
        placements = self._placements(version)
        shut: Set[str] = self._full.names
        if self._breakers.any_open:
            candidates = [seen.worker for seen in able_workers(version, placements, observed)]
            shut = shut | self._breakers.out(candidates, time.monotonic())
        name = choose(
            version, placements, observed, self.per_worker, session, slack=_SLACK, shut=shut
        )
        spec = self.snapshot.workers.get(name) if self.snapshot and name else None
        if name is None or spec is None:
            return None
        return Target(spec, served_name(version, observed[name]))

    def _able(self, version: Version, avoid: Mapping[str, Observed | None]) -> bool:
        """Whether a worker could serve the version, were it not full."""
        return bool(able_workers(version, self._placements(version), self._seen_without(avoid)))

    def _seen_without(self, avoid: Mapping[str, Observed | None]) -> Mapping[str, Observed]:
        observed = self._watch.observed
        if not avoid:
            return observed
        return {
            name: seen
            for name, seen in observed.items()
            if name not in avoid or avoid[name] not in (None, seen)
        }

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
            if seen.healthy and seen.bases and seen.worker not in known
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
