"""Makes workers hold what they should: compares, acts on one difference at a time, looks again.

Level-triggered: nothing here depends on having seen an event. A pass that fails is logged and comes
again; a worker that fails or is slow holds up no other, since each has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from gateway.controller.desired import VERDICTS, Trial, WorkerPlan, drained, next_step, plan
from gateway.controller.hearing import Hearing, Heartbeats
from gateway.controller.view import View
from gateway.errors import GatewayError
from gateway.registry.records import Demand, GatewayBeat
from gateway.registry.snapshot import Placement, Snapshot, Version, VersionState
from gateway.settings import PlacementSettings
from gateway.workers.errors import FingerprintInvalid, LoadRefused, NoRoom, WorkerResting
from gateway.workers.loader import Loader
from gateway.workers.probe import COUNTED, Observed, WorkerWatch

logger = logging.getLogger(__name__)

ACTOR = "controller"
RETRY_S = 1.0
RETRY_MAX_S = 60.0
METRICS_S = 10.0


class ControlStore(Heartbeats, Protocol):
    """What the controller needs of the registry; synchronous, called in threads."""

    def pulse(self) -> tuple[int, float]:
        """The number of changes so far, and the time of the newest use."""
        ...

    def snapshot(self, held: Snapshot | None = None) -> Snapshot:
        """Everything that routing needs; cheap where only placements differ from `held`."""
        ...

    def demand(self) -> Demand:
        """What is in demand, and how old the proofs are."""
        ...

    def set_state(self, version_id: int, state: VersionState, reason: str, actor: str) -> object:
        """Move a version to another state."""
        ...

    def drop_placements(
        self, worker: str, version_ids: Iterable[int] | None = None, *, boot: str | None = None
    ) -> bool:
        """Forget what was seen on a worker."""
        ...

    def record_worker(
        self,
        name: str,
        *,
        boot: str,
        healthy: bool,
        detail: str = "",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what was seen of a worker."""
        ...


class Reconciler:
    """One pass over everything is `step`; slow work goes on in tasks of the given group."""

    def __init__(
        self,
        store: ControlStore,
        watch: WorkerWatch,
        loader: Loader,
        *,
        max_cpu_loras: int,
        settings: PlacementSettings,
        leading: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._watch = watch
        self._loader = loader
        self._max_cpu_loras = max_cpu_loras
        self._settings = settings
        self._leading = leading
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._pulse = (0, 0.0)
        self._beats: tuple[GatewayBeat, ...] = ()
        self._hearing = Hearing(store, clock)
        self._busy: set[str] = set()
        self._trials: dict[tuple[str, int], Trial] = {}
        self._leaving: dict[tuple[str, str], int] = {}
        self._recorded: dict[str, tuple[tuple[str, bool, str], float]] = {}

    async def step(self, group: asyncio.TaskGroup) -> None:
        """Read the registry, tell it what was seen, and set every idle worker to work."""
        # What a worker ended while the registry was read is not in this view.
        busy = frozenset(self._busy)
        view = await self._look()
        await self._record()
        await self._forget_sleepers(view)
        await self._advance(view)
        for name in view.snapshot.workers:
            seen = self._watch.observed.get(name, Observed(name))
            if name not in busy and seen.healthy and self._todo(seen, view) != WorkerPlan():
                self._busy.add(name)
                group.create_task(self._guarded(name, view), name=f"reconcile {name}")

    async def has_news(self) -> bool:
        """Whether another step is due: the registry has changed, or names wait to be unloaded."""
        return bool(self._leaving) or await asyncio.to_thread(self._store.pulse) != self._pulse

    def stand_by(self) -> None:
        """Forget everything: another controller leads, and what was known here grows old."""
        self._snapshot = None
        self._trials.clear()
        self._leaving.clear()
        self._recorded.clear()
        self._watch.set_workers(())

    async def _look(self) -> View:
        """Read what the registry holds, and work out what should be where."""
        held = self._snapshot
        # Read first: what comes in meanwhile is news.
        self._pulse = await asyncio.to_thread(self._store.pulse)
        self._beats = await asyncio.to_thread(self._hearing.beats)
        demand = await asyncio.to_thread(self._store.demand)
        if held is None or held.revision != self._pulse[0]:
            self._snapshot = await asyncio.to_thread(self._store.snapshot, held)
            if held is None or dict(held.workers) != dict(self._snapshot.workers):
                self._watch.set_workers(self._snapshot.workers.values())
        assert self._snapshot is not None  # noqa: S101 (read above where it was missing)
        known = self._snapshot.workers
        observed = [s for s in self._watch.observed.values() if s.healthy and s.worker in known]
        boots = {seen.worker: seen.boot for seen in observed}
        self._leaving = {key: since for key, since in self._leaving.items() if key[0] in boots}
        self._trials = {key: trial for key, trial in self._trials.items() if key[0] in known}
        self._recorded = {name: told for name, told in self._recorded.items() if name in known}
        avoid = {
            key
            for key, trial in self._trials.items()
            if trial.verdicts >= VERDICTS and boots.get(key[0]) == trial.boot
        }
        return View.of(self._snapshot, demand, observed, self._max_cpu_loras, self._settings, avoid)

    async def _record(self) -> None:
        """Tell the registry of changes at once, of mere figures now and then."""
        for name, seen in self._watch.observed.items():
            if not seen.at:
                continue
            told, at = self._recorded.get(name, (None, 0.0))
            state, now = (seen.boot, seen.healthy, seen.detail), self._clock()
            if told == state and now - at < METRICS_S:
                continue
            metrics = {
                "running": seen.running,
                "waiting": seen.waiting,
                "kv_usage": seen.kv_usage,
                "adapters": sorted(seen.adapters),
                "merged": sorted(seen.merged),
                "base_model": seen.base_model,
                "static": seen.static,
            }
            await asyncio.to_thread(
                self._store.record_worker,
                name,
                boot=seen.boot,
                healthy=seen.healthy,
                detail=seen.detail,
                metrics=metrics,
            )
            self._recorded[name] = (state, now)

    async def _forget_sleepers(self, view: View) -> None:
        """Who wakes is proven again: weights may be gone, or others, and the boot is the same."""
        for name, seen in self._watch.observed.items():
            if seen.asleep and (placed := view.placed.get(name)):
                await asyncio.to_thread(self._store.drop_placements, name, tuple(placed))
                logger.info("worker %s sleeps: it is proven again when it wakes", name)

    async def _advance(self, view: View) -> None:
        observed = self._watch.observed
        for version in view.unproven():
            placements = view.snapshot.placements.get(version.id, ())
            step = next_step(version, placements, observed, self._trials)
            if step is None:
                continue
            level = logging.ERROR if step.state is VersionState.REJECTED else logging.INFO
            logger.log(level, "%s is %s: %s", version.model, step.state.value, step.reason)
            await self._set_state(version, step.state, step.reason)

    def _todo(self, seen: Observed, view: View) -> WorkerPlan:
        """What the worker needs, less what must wait: for calls, for room, for a pause to end."""
        name, placed = seen.worker, view.placed.get(seen.worker, {})
        needs = plan(
            seen,
            view.wanted.get(name, ()),
            view.versions,
            placed.values(),
            view.aged.get(name, ()),
        )
        now = self._clock()
        due = [v for v in needs.prove if self._trial(seen, v).not_before <= now]
        fenced = {v.worker_name for v in due if _is_fenced(placed.get(v.id))}
        waiting = fenced.union(needs.drain)
        for key in [k for k in self._leaving if k[0] == name and k[1] not in waiting]:
            del self._leaving[key]
        quiet = {adapter for adapter in waiting if self._is_quiet(name, adapter, view)}
        drain = tuple(adapter for adapter in needs.drain if adapter in quiet)
        room = self._max_cpu_loras - len(seen.adapters) + len(drain)
        prove = [
            version
            for version in due
            if (version.worker_name not in fenced or version.worker_name in quiet)
            and (seen.serves(version) or room > 0)
        ]
        return WorkerPlan(needs.forget, tuple(prove), drain)

    def _is_quiet(self, worker: str, adapter: str, view: View) -> bool:
        """Whether no gateway can have a call there; asked once routing there has stopped."""
        since = self._leaving.setdefault((worker, adapter), view.snapshot.revision)
        return drained(worker, adapter, since, [(b.revision, b.busy) for b in self._beats])

    async def _guarded(self, name: str, view: View) -> None:
        """Whatever goes wrong with one worker ends here."""
        acted = False
        try:
            acted = await self._worker(name, view)
        except GatewayError as error:
            logger.warning("worker %s: %s", name, error.message)
        except Exception:
            logger.exception("worker %s cannot be reconciled", name)
        finally:
            self._busy.discard(name)
            if acted:
                self._watch.notify()  # the next pass need not wait for its second

    async def _worker(self, name: str, view: View) -> bool:
        """Do the next thing that the worker needs; whether there may be more to do at once."""
        # Looked at after the snapshot was read: what the snapshot holds has been there to see.
        seen = await self._watch.look(name)
        if not seen.healthy or not self._leading():
            return False
        todo = self._todo(seen, view)
        if todo.forget:
            await asyncio.to_thread(self._store.drop_placements, name, todo.forget)
            if seen.boot[:1] == COUNTED:
                return False  # gateways must learn it first
        for adapter in todo.drain:
            if not self._leading():  # the one before may have waited for a load to end
                return False
            await self._loader.unload(name, adapter)
            self._leaving.pop((name, adapter), None)
            logger.info("%s unloaded from %s", adapter, name)
        for version in () if todo.forget else todo.prove:
            if await self._prove(self._watch.observed.get(name, seen), version, view):
                return True
        return bool(todo.forget or todo.drain)

    def _trial(self, seen: Observed, version: Version) -> Trial:
        trial = self._trials.get((seen.worker, version.id))
        return trial if trial is not None and trial.boot == seen.boot else Trial(seen.boot)

    async def _prove(self, seen: Observed, version: Version, view: View) -> bool:
        """Load what is missing and verify it, or verify again; whether anything was tried."""
        if not self._loader.has_room(seen, version):
            return False
        key, trial = (seen.worker, version.id), self._trial(seen, version)
        if version.state is VersionState.REGISTERED:
            await self._set_state(version, VersionState.VERIFYING, f"Loading on {seen.worker}.")
        fenced = _is_fenced(view.placed.get(seen.worker, {}).get(version.id))
        act = self._loader.reload if fenced else self._loader.ensure
        try:
            placement = await act(seen.worker, version)
        except (WorkerResting, NoRoom) as error:
            logger.debug("%s must wait: %s", version.model, error.message)
            return False
        except GatewayError as error:
            logger.warning("%s on %s: %s", version.model, seen.worker, error.message)
            against = isinstance(error, LoadRefused | FingerprintInvalid)
            self._trials[key] = self._again(trial, error.message, against=against)
            return True
        if placement.routable:
            self._trials.pop(key, None)
        else:
            self._trials[key] = self._again(trial, placement.detail, against=True)
        return True

    def _again(self, trial: Trial, reason: str, *, against: bool) -> Trial:
        pause = min(RETRY_S * 2**trial.failures, RETRY_MAX_S)
        verdicts = min(trial.verdicts + 1, VERDICTS) if against else trial.verdicts
        return replace(
            trial,
            failures=min(trial.failures + 1, 16),
            verdicts=verdicts,
            not_before=self._clock() + pause,
            reason=reason,
        )

    async def _set_state(self, version: Version, state: VersionState, reason: str) -> None:
        """Move a version on; somebody who was quicker, such as a retire, wins."""
        try:
            await asyncio.to_thread(self._store.set_state, version.id, state, reason, ACTOR)
        except GatewayError as error:
            logger.info("%s does not become %s: %s", version.model, state.value, error.message)


def _is_fenced(placement: Placement | None) -> bool:
    """Whether a worker was found to answer wrongly, so that it is to load again."""
    return placement is not None and not placement.routable
