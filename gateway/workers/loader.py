"""Puts an adapter on a worker and proves that it answers: load, measure, judge, record.

However many callers wait for one (worker, version), the work is done once; loads on one worker take
turns, since two at a time fail or evict one another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from gateway.registry.snapshot import Effect, Placement, Version
from gateway.workers.admin import WorkerAdmin
from gateway.workers.effect import (
    FALLBACK,
    Fingerprint,
    Judgement,
    Prompt,
    Reference,
    bounded,
    dump_fingerprint,
    judge,
    judge_merged,
    measure,
    parse_fingerprint,
)
from gateway.workers.errors import (
    LoadRefused,
    MeasureFailed,
    NoRoom,
    WorkerRestarted,
    WorkerResting,
    WorkerUnreachable,
)
from gateway.workers.probe import Observed

logger = logging.getLogger(__name__)

Key = tuple[str, int]
Era = tuple[str, int]  # a worker's boot, and how often it was found asleep
REST_S = 2.0
REST_MAX_S = 60.0


class Workers(Protocol):
    """What the loader needs of the watch."""

    @property
    def names(self) -> Set[str]:
        """The workers that are there."""
        ...

    def admin(self, worker: str) -> WorkerAdmin:
        """The admin client of a worker."""
        ...

    def leaving(self, worker: str, name: str) -> None:
        """Announce an unload."""
        ...

    async def look(self, worker: str) -> Observed:
        """Probe a worker now."""
        ...


class Evidence(Protocol):
    """What the loader needs of the registry; synchronous, called in threads."""

    def reference(self, version_id: int) -> Mapping[str, Any] | None:
        """The fingerprint of the version's manifest, else the one adopted for it, else None."""
        ...

    def adopt_reference(self, version_id: int, fingerprint: Mapping[str, Any], worker: str) -> bool:
        """Keep what the first effective worker gave, for a version that brought nothing."""
        ...

    def record_placement(self, placement: Placement) -> None:
        """Note what a worker was found to answer with."""
        ...


@dataclass(slots=True)
class Circuit:
    """Keeps loads off a worker that goes down under them, so that it can answer other calls.

    The pause doubles with each time in a row, and counts from when the worker was found up again:
    a restart may take longer than any pause.
    """

    downs: int = 0
    closed_at: float | None = None

    def tripped(self) -> None:
        """The worker went down, or out of reach, under a load."""
        self.downs += 1
        self.closed_at = None

    def rest(self, now: float) -> float:
        """Seconds still to wait; to be asked only while the worker is up."""
        if not self.downs:
            return 0.0
        if self.closed_at is None:
            self.closed_at = now + min(REST_S * 2 ** min(self.downs - 1, 16), REST_MAX_S)
        return max(0.0, self.closed_at - now)


class Loader:
    """Loads and verifies. Enter it (`async with`) to let it own the work that callers wait for."""

    def __init__(
        self,
        workers: Workers,
        evidence: Evidence,
        *,
        max_cpu_loras: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._evidence = evidence
        self._max_cpu_loras = max_cpu_loras
        self._clock = clock
        self._circuits: defaultdict[str, Circuit] = defaultdict(Circuit)
        self._group = asyncio.TaskGroup()
        self._flights: dict[Key, asyncio.Future[Placement]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._bases: dict[str, tuple[Era, dict[tuple[Prompt, ...], tuple[float, ...]]]] = {}

    async def __aenter__(self) -> Self:
        """Open the group that owns the loads."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for loads under way, or cancel them if the owner is being cancelled."""
        await self._group.__aexit__(kind, error, trace)

    async def ensure(self, worker: str, version: Version) -> Placement:
        """Load the version where it is missing, verify it, record and give the placement.

        The placement may say NO_EFFECT or MISMATCH: look at `routable`. Raises
        `WorkerUnreachable`, `WorkerRestarted`, `WorkerResting`, `NoRoom`, `LoadRefused`,
        `NameTaken`, `MeasureFailed`, `FingerprintInvalid`.
        """
        key = (worker, version.id)
        flight = self._flights.get(key)
        if flight is None:
            self._forget_gone()
            flight = self._flights[key] = asyncio.get_running_loop().create_future()
            self._group.create_task(self._fly(flight, worker, version), name=f"load {key}")
        # A caller may go away; the others, and the worker, want the load to finish.
        return await asyncio.shield(flight)

    def _forget_gone(self) -> None:
        """Drop what is known of workers that are gone: found ones come under ever new names."""
        there = self._workers.names
        for name in self._circuits.keys() - there:
            del self._circuits[name]
        for name in self._bases.keys() - there:
            del self._bases[name]
        for name in self._locks.keys() - there:
            if not self._locks[name].locked():
                del self._locks[name]

    async def unload(self, worker: str, name: str) -> None:
        """Take a name off a worker. Whether anything still uses it is for the caller to know."""
        async with self._locks[worker]:
            self._workers.leaving(worker, name)
            await self._workers.admin(worker).unload(name)
            await self._workers.look(worker)

    async def reload(self, worker: str, version: Version) -> Placement:
        """Unload and load again: for a placement that is not routable, so nothing can use it.

        What a worker was started with is only proven again.
        """
        self._check_rest(worker)
        if self._loads(worker, version):
            await self.unload(worker, version.worker_name)
        return await self.ensure(worker, version)

    async def _fly(self, flight: asyncio.Future[Placement], worker: str, version: Version) -> None:
        try:
            placement = await self._ensure(worker, version)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # marked as seen: every caller may have left
        else:
            flight.set_result(placement)
        finally:
            del self._flights[(worker, version.id)]

    async def _ensure(self, worker: str, version: Version) -> Placement:
        async with self._locks[worker]:
            before = await self._workers.look(worker)
            if not before.healthy:
                raise WorkerUnreachable(f"Worker {worker} is down: {before.detail}")
            self._check_rest(worker)
            self._check_room(before, version)
            fingerprint = await self._fingerprint(version)
            try:
                placement = await self._attempt(before, version, fingerprint)
            except (WorkerUnreachable, WorkerRestarted):
                self._circuits[worker].tripped()
                raise
            self._circuits.pop(worker, None)
            await asyncio.to_thread(self._evidence.record_placement, placement)
        if placement.routable:
            logger.info("%s on %s: %s", version.model, worker, placement.detail)
        else:
            logger.error("%s on %s never gets calls: %s", version.model, worker, placement.detail)
        return placement

    async def _attempt(
        self, before: Observed, version: Version, fingerprint: Fingerprint
    ) -> Placement:
        """Load and measure, all within one boot of the worker."""
        worker = before.worker
        admin = self._workers.admin(worker)
        if self._loads(worker, version):
            await admin.load(version.worker_name, version.path)
        if admin.capabilities.forced_tokens:
            judgement = await self._verify(admin, before, version, fingerprint)
        else:
            judgement = Judgement(Effect.DECLARED, "Declared, not measured.")
        after = await self._workers.look(worker)
        if after.boot != before.boot or not after.serves(version):
            raise WorkerRestarted(f"Worker {worker} restarted while {version.model} loaded.")
        return Placement(worker, version.id, after.boot, judgement.effect, judgement.detail)

    def _loads(self, worker: str, version: Version) -> bool:
        """Whether the version comes onto this worker by a load, and leaves it by an unload."""
        return self._workers.admin(worker).capabilities.runtime_load and not version.is_merged

    def _check_rest(self, worker: str) -> None:
        circuit = self._circuits[worker]
        if (wait := circuit.rest(self._clock())) > 0:
            raise WorkerResting(
                f"Worker {worker} went down under {circuit.downs} loads in a row: "
                f"the next begins in {wait:.0f} s."
            )

    def has_room(self, seen: Observed, version: Version) -> bool:
        """Whether a worker may hold the version: never more names than its CPU cache holds."""
        return seen.serves(version) or len(seen.adapters) < self._max_cpu_loras

    def _check_room(self, seen: Observed, version: Version) -> None:
        if not seen.fits(version):
            raise LoadRefused(
                f"Worker {seen.worker} cannot take {version.model}: it has another base model, or"
                " was started without it."
            )
        if not self.has_room(seen, version):
            raise NoRoom(
                f"Worker {seen.worker} holds {len(seen.adapters)} adapters of "
                f"{self._max_cpu_loras}: {version.model} must wait until one is unloaded."
            )

    async def _fingerprint(self, version: Version) -> Fingerprint:
        raw = await asyncio.to_thread(self._evidence.reference, version.id)
        return bounded(FALLBACK if raw is None else parse_fingerprint(raw))

    async def _verify(
        self, admin: WorkerAdmin, seen: Observed, version: Version, fingerprint: Fingerprint
    ) -> Judgement:
        if version.is_merged:
            return await self._verify_merged(admin, version, fingerprint)
        if seen.base is None:
            raise MeasureFailed(f"Worker {seen.worker} lists no base model to compare with.")
        base = await self._base(admin, seen, seen.base, fingerprint.prompts)
        name = seen.name_of(version) or version.worker_name
        adapter = await measure(admin, name, fingerprint.prompts)
        verdict = judge(fingerprint.reference, base, adapter)
        if verdict.effect is not Effect.EFFECTIVE or fingerprint.reference is None:
            # Worth a second look before bad news, or before this becomes the reference.
            again = await measure(admin, seen.base, fingerprint.prompts)
            verdict = judge(fingerprint.reference, base, adapter, again)
        if fingerprint.reference is None and verdict.effect is Effect.EFFECTIVE:
            adopted = dump_fingerprint(fingerprint.prompts, Reference(base, adapter))
            await asyncio.to_thread(
                self._evidence.adopt_reference, version.id, adopted, seen.worker
            )
        return verdict

    async def _verify_merged(
        self, admin: WorkerAdmin, version: Version, fingerprint: Fingerprint
    ) -> Judgement:
        """Compare with the reference alone: the base is not there to measure beside it."""
        if fingerprint.reference is None:
            return Judgement(Effect.DECLARED, "Declared, not measured: it brings no fingerprint.")
        means = await measure(admin, version.worker_name, fingerprint.prompts)
        return judge_merged(fingerprint.reference, means)

    async def _base(
        self, admin: WorkerAdmin, seen: Observed, name: str, prompts: tuple[Prompt, ...]
    ) -> tuple[float, ...]:
        """The base's means: measured once per boot and nap, since it cannot change in between."""
        now: Era = (seen.boot, seen.naps)
        era, known = self._bases.get(seen.worker, (None, {}))
        if era != now:
            known = {}
            self._bases[seen.worker] = (now, known)
        if prompts not in known:
            known[prompts] = await measure(admin, name, prompts)
        return known[prompts]
