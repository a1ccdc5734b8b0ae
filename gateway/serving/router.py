"""Which worker takes a call: waits for one, loads on demand, keeps count of what is in flight.

Two waits are told apart: for a worker that is *ready* (else `NoWorker`), and in the queue for one
that has *room* (else `Saturated`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

from gateway.choose import able_workers, choose, served_name
from gateway.errors import NoWorker
from gateway.registry.records import in_flight
from gateway.registry.snapshot import Placement, Snapshot, Version, WorkerSpec, why_left_out
from gateway.serving.breaker import Breakers, State
from gateway.serving.demand import LoadsOnDemand
from gateway.serving.occupancy import Occupancy
from gateway.serving.retries import RetryBudget
from gateway.serving.uses import Uses
from gateway.serving.waiting import Resort, Standing, WaitingRoom
from gateway.settings import QueueSettings
from gateway.workers.admin import Ask
from gateway.workers.loader import Loader
from gateway.workers.probe import Observed, WorkerWatch

Counted = TypeVar("Counted")

_SLACK, _SHARE = 2, 0.25
"""Calls, or part of the least calls, that a call's own worker may have above the least busy one."""
_STALE_S = 0.25
"""Age of a reading from which on those who wait for room ask for a new one."""


class Target(NamedTuple):
    """A worker, the name under which it knows the version, and the fields that choose it there.

    The base model has no id here. `context` is the most tokens of prompt and answer there, where
    the worker tells.
    """

    worker: WorkerSpec
    name: str
    ask: Ask
    version_id: int | None
    context: int | None = None


class Router:
    """Chooses workers for versions over the latest snapshot and observations.

    `uses` tells the registry what was called. `found` counts calls for adapters by whether a worker
    had the version when they came (`resident`), while they waited (`loaded`), or not (`none`).
    """

    def __init__(
        self,
        watch: WorkerWatch,
        loader: Loader,
        group: asyncio.TaskGroup,
        settings: QueueSettings,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.uses = Uses()
        self.per_worker: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.queue: WaitingRoom[Target] = WaitingRoom(settings, self.end)
        self.retries = RetryBudget()
        self._occupancy = Occupancy(settings)
        self._breakers = Breakers()
        self._queued: Counter[int] = Counter()
        self._hungry: Counter[int] = Counter()
        self._avoided: Counter[str] = Counter()
        self._when_hungry: Callable[[], None] = lambda: None
        self.when_full: Callable[[], None] = lambda: None
        self._calls: Counter[Target] = Counter()
        self._watch = watch
        self._loads = LoadsOnDemand(watch, loader, group)
        watch.on_seen = self._read

    def update(self, snapshot: Snapshot) -> None:
        """Route by this snapshot from now on; workers that have something new are probed."""
        before, self.snapshot = self.snapshot, snapshot
        if before is None or dict(before.workers) != dict(snapshot.workers):
            self._watch.set_workers(snapshot.workers.values())
            self._occupancy.keep(snapshot.workers)
            self._breakers.keep(snapshot.workers)
        else:
            for worker in _gained(before, snapshot):
                self._watch.suspect(worker)
            self._watch.notify()
        self.queue.serve()

    def busy(self) -> list[str]:
        """Where calls are in flight, as heartbeats tell it."""
        return [in_flight(target.worker.name, target.name) for target in self._calls]

    def note_calls(self) -> None:
        """A version with calls in flight or waiting is in use, however long ago they came.

        Those that calls wait for are noted last: where there is no room for all, they are next.
        """
        for target in self._calls:
            if target.version_id is not None:
                self.uses.note(target.version_id)
        for version_id in (*self._queued, *self._hungry):
            self.uses.note(version_id)

    @property
    def hungry(self) -> bool:
        """Whether calls wait for an adapter."""
        return bool(self._hungry)

    def when_hungry(self, tell: Callable[[], None]) -> None:
        """Have `tell` called each time that a call has to wait for an adapter."""
        self._when_hungry = tell

    def refused(self, worker: str) -> None:
        """Send a worker no more calls until it is looked at again: it has said that it is full."""
        self._occupancy.refused(worker)

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
        resort: Resort | None = None,
    ) -> Target:
        """Give a worker that was proven to serve the version, and count a call; `end` must follow.

        Waits until `deadline` (in the loop's time) for one that is ready, and then in the queue for
        one that has room, or until the resort could answer. `avoid` holds workers that just failed
        this call, with what was observed then: they count again once something newer is known of
        them (None: never again). Raises `NoWorker`, or `Saturated`.
        """
        if self.queue:
            self.queue.serve()  # nobody who comes now goes before them
        target = self._find(version, session, avoid)
        if version.is_base:
            return target or await self._wait(version, session, deadline, avoid, standing, resort)
        self.uses.note(version.id)
        if target is not None or self._able(version, avoid):
            self._count("resident", avoid)
            return target or await self._wait(version, session, deadline, avoid, standing, resort)
        with self._starving(version):
            try:
                target = await self._wait(version, session, deadline, avoid, standing, resort)
            except NoWorker:
                self._count("none", avoid)
                raise
            self._count("loaded", avoid)
            return target

    async def _wait(
        self,
        version: Version,
        session: str,
        deadline: float,
        avoid: Mapping[str, Observed | None],
        standing: Standing,
        resort: Resort | None,
    ) -> Target:
        loop = asyncio.get_running_loop()
        find = partial(self._find, version, session, avoid)
        while (target := find()) is None:
            if self._able(version, avoid):
                self.when_full()
                self._ask_again()
                # Of two that avoid a worker, one may have to for good and the other no longer.
                avoids = frozenset((name, seen and seen.at) for name, seen in avoid.items())
                lane = (version.id, avoids)
                with _counted(self._queued, *_id_of(version)):
                    return await self.queue.wait(find, lane, standing, resort)
            self._loads.ask(version, self._placements(version))
            remaining = deadline - loop.time()
            with _counted(self._avoided, *avoid):
                changed = remaining > 0 and await self._watch.wait_change(remaining)
            if not changed:
                why = why_left_out(version, self.snapshot.workers.values() if self.snapshot else ())
                told = f". {why}" if why else ": try again shortly."
                raise NoWorker(f"No worker that serves '{version.model}' is ready{told}")
        return target

    @contextmanager
    def _starving(self, version: Version) -> Iterator[None]:
        """A call waits for an adapter: the registry is to be told, and asked, sooner."""
        with _counted(self._hungry, *_id_of(version)):
            self._when_hungry()
            yield

    def ready(self, version: Version) -> bool:
        """Whether a call to the version could go out now."""
        return self._pick(version, "", {}) is not None

    def expects(self, version: Version) -> bool:
        """Whether waiting may help: a worker was proven for the version, or it is being loaded."""
        placed = any(placement.routable for placement in self._placements(version))
        return version.is_base or placed or version.id in self._loads

    def end(self, target: Target, answered: bool | None = None) -> None:
        """Count a call that is over.

        `answered` says whether the worker did its part; None where that is not known, since the
        client left or was itself at fault.
        """
        worker = target.worker.name
        self.per_worker[worker] -= 1
        if not self.per_worker[worker]:
            del self.per_worker[worker]  # workers that are found come under ever new names
        self.spared(target)
        self._occupancy.count(worker, self.per_worker[worker])
        if answered:
            self._breakers.answered(worker, time.monotonic())
        elif answered is not None:
            self._breakers.failed(worker, time.monotonic())
        if self.queue:
            self.queue.serve()
            self._ask_again()

    def spare(self, version: Version, avoid: Container[str] = ()) -> Target | None:
        """Give a worker for a call that nobody waits for, where one has nothing better to do.

        None while calls wait, here or on the workers that could serve it, or these are full or
        fail. Such a call is told in heartbeats, so that its version stays; it takes no place, and
        says nothing of the worker. `spared` must follow.
        """
        if self.queue:
            return None
        shut = {seen.worker for seen in self._watch.observed.values() if seen.waiting}
        shut |= self._occupancy.full | self._breakers.shut
        shut |= {name for name in self._watch.observed if name in avoid}
        target = self._choose(version, "", self._watch.observed, shut)
        if target is not None:
            self._calls[target] += 1
        return target

    def spared(self, target: Target) -> None:
        """End a call of `spare`."""
        self._calls[target] -= 1
        if not self._calls[target]:
            del self._calls[target]

    def may_retry(self) -> bool:
        """Say whether a call that failed may be tried again, and count it if so."""
        return self.retries.take(time.monotonic())

    @property
    def full(self) -> Set[str]:
        """The workers that take no further call."""
        return self._occupancy.full

    def circuits(self) -> dict[str, State]:
        """Tell for each worker whether it gets calls."""
        states = self._breakers.states()
        names = self.snapshot.workers if self.snapshot else ()
        return {name: states.get(name, State.CLOSED) for name in names}

    def _read(self, seen: Observed) -> None:
        """Take note of what a worker said of itself."""
        if seen.boot:
            self._breakers.booted(seen.worker, seen.boot)
        self._occupancy.read(seen, self.per_worker[seen.worker])
        self.queue.serve()
        if seen.worker in self._avoided:
            self._watch.notify()  # no change, and yet what the calls wait for that it failed

    def _ask_again(self) -> None:
        """Have full workers probed whose readings are old: somebody waits for room."""
        oldest = time.time() - _STALE_S
        for name in self._occupancy.full:
            seen = self._watch.observed.get(name)
            if seen is not None and seen.at < oldest:
                self._watch.suspect(name)

    def _count(self, found: str, avoid: Mapping[str, Observed | None]) -> None:
        """Count a call's first look for a worker; later ones have other reasons to wait."""
        if not avoid:
            self.found[found] += 1

    def _placements(self, version: Version) -> tuple[Placement, ...]:
        return self.snapshot.placements.get(version.id, ()) if self.snapshot else ()

    def _find(
        self, version: Version, session: str, avoid: Mapping[str, Observed | None]
    ) -> Target | None:
        """Give a worker that takes a call now, and count the call."""
        target = self._pick(version, session, avoid)
        if target is not None:
            worker, now = target.worker.name, time.monotonic()
            self.per_worker[worker] += 1
            self._calls[target] += 1
            self._occupancy.count(worker, self.per_worker[worker])
            self._breakers.tried(worker, now)
            self.retries.tried(now)
        return target

    def _pick(
        self, version: Version, session: str, avoid: Mapping[str, Observed | None]
    ) -> Target | None:
        observed = self._seen_without(avoid)
        shut: Set[str] = self._occupancy.full
        if self._breakers.any_open:
            able = able_workers(version, self._placements(version), observed)
            candidates = [seen.worker for seen in able]
            shut = shut | self._breakers.out(candidates, time.monotonic())
        return self._choose(version, session, observed, shut)

    def _choose(
        self, version: Version, session: str, observed: Mapping[str, Observed], shut: Set[str]
    ) -> Target | None:
        placements = self._placements(version)
        busy = self._occupancy.outstanding
        name = choose(
            version, placements, observed, busy, session, slack=_SLACK, share=_SHARE, shut=shut
        )
        spec = self.snapshot.workers.get(name) if self.snapshot and name else None
        if name is None or spec is None:
            return None
        seen = observed[name]
        served = served_name(version, seen)
        ask = seen.asks.get(served) or Ask(served)
        return Target(spec, served, ask, None if version.is_base else version.id, seen.context)

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


def _id_of(version: Version) -> tuple[int, ...]:
    """Give the id by which calls are counted that wait for an adapter; the base is not counted."""
    return () if version.is_base else (version.id,)


@contextmanager
def _counted(waiting: Counter[Counted], *each: Counted) -> Iterator[None]:
    """Count a call that waits for each of these."""
    waiting.update(each)
    try:
        yield
    finally:
        for one in each:
            waiting[one] -= 1
            if not waiting[one]:
                del waiting[one]


def _gained(before: Snapshot, after: Snapshot) -> set[str]:
    """The workers that have a placement which they had not before."""
    return {
        placement.worker
        for version_id, placements in after.placements.items()
        if placements != (had := before.placements.get(version_id, ()))
        for placement in placements
        if placement not in had
    }
