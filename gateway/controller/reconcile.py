"""Makes workers hold what they should: compares, acts on one difference at a time, looks again.

Level-triggered: nothing here depends on having seen an event. A pass that fails is logged and comes
again; a worker that fails or is slow holds up no other, since each has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.controller.desired import (
    VERDICTS,
    Trial,
    WorkerPlan,
    desired,
    drained,
    next_step,
    plan,
    share,
)
from gateway.errors import GatewayError
from gateway.registry.records import GatewayBeat
from gateway.registry.snapshot import Placement, Snapshot, Version, VersionState
from gateway.workers.errors import FingerprintInvalid, LoadRefused, WorkerResting
from gateway.workers.loader import Loader
from gateway.workers.probe import COUNTED, Observed, WorkerWatch

logger = logging.getLogger(__name__)

ACTOR = "controller"
RETRY_S = 1.0
RETRY_MAX_S = 60.0
METRICS_S = 10.0


class ControlStore(Protocol):
    """What the controller needs of the registry; synchronous, called in threads."""

    def revision(self) -> int:
        """The number of changes so far."""
        ...

    def snapshot(self) -> Snapshot:
        """Everything that routing needs."""
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

    def live_gateways(self) -> tuple[GatewayBeat, ...]:
        """The gateways whose heartbeat is fresh."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """What one pass goes by."""

    snapshot: Snapshot
    versions: Mapping[int, Version]
    wanted: tuple[Version, ...]

    @classmethod
    def of(cls, snapshot: Snapshot) -> View:
        """Work out a snapshot's consequences once."""
        versions = {version.id: version for version in snapshot.versions.values()}
        return cls(snapshot, versions, desired(snapshot))

    def on(self, worker: str) -> list[Placement]:
        """The placements of one worker."""
        every = self.snapshot.placements.values()
        return [p for placements in every for p in placements if p.worker == worker]


class Reconciler:
    """One pass over everything is `step`; slow work goes on in tasks of the given group."""

    def __init__(
        self,
        store: ControlStore,
        watch: WorkerWatch,
        loader: Loader,
        *,
        max_cpu_loras: int,
        leading: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._watch = watch
        self._loader = loader
        self._room = max_cpu_loras
        self._leading = leading
        self._clock = clock
        self._view: View | None = None
        self._busy: set[str] = set()
        self._trials: dict[tuple[str, int], Trial] = {}
        self._undesired: dict[tuple[str, str], int] = {}
        self._recorded: dict[str, tuple[tuple[str, bool, str], float]] = {}

    async def step(self, group: asyncio.TaskGroup) -> None:
        """Read the registry, tell it what was seen, and set every idle worker to work."""
        view = await self._refresh()
        await self._record()
        await self._advance(view)
        for name in view.snapshot.workers:
            if name not in self._busy and self._watch.observed.get(name, Observed(name)).healthy:
                self._busy.add(name)
                group.create_task(self._guarded(name, view), name=f"reconcile {name}")

    def stand_by(self) -> None:
        """Forget everything: another controller leads, and what was known here grows old."""
        self._view = None
        self._trials.clear()
        self._undesired.clear()
        self._recorded.clear()
        self._watch.set_workers(())

    async def _refresh(self) -> View:
        view = self._view
        if view is not None and await asyncio.to_thread(self._store.revision) == (
            view.snapshot.revision
        ):
            return view
        snapshot = await asyncio.to_thread(self._store.snapshot)
        if view is None or dict(view.snapshot.workers) != dict(snapshot.workers):
            self._watch.set_workers(snapshot.workers.values())
        self._view = view = View.of(snapshot)
        live = {(worker, v) for worker in snapshot.workers for v in view.versions}
        self._trials = {key: trial for key, trial in self._trials.items() if key in live}
        return view

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
                "base_model": seen.base_model,
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

    async def _advance(self, view: View) -> None:
        observed = self._watch.observed
        for version in view.wanted:
            placements = view.snapshot.placements.get(version.id, ())
            step = next_step(version, placements, observed, self._trials)
            if step is None:
                continue
            level = logging.ERROR if step.state is VersionState.REJECTED else logging.INFO
            logger.log(level, "%s is %s: %s", version.model, step.state.value, step.reason)
            await self._set_state(version, step.state, step.reason)

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
        if not seen.healthy:
            return False
        wanted = share(seen, view.wanted, self._room)
        todo = plan(seen, wanted, view.versions, view.on(name))
        if todo.forget:
            await asyncio.to_thread(self._store.drop_placements, name, todo.forget)
            return seen.boot[:1] != COUNTED  # where boots are counted, gateways must learn it first
        await self._drain(name, view, todo)
        for version in todo.prove:
            if await self._prove(seen, version, view):
                return True
        return False

    async def _drain(self, name: str, view: View, todo: WorkerPlan) -> None:
        """Unload in two phases: first no placement and no live gateway with a call, then gone."""
        for key in [k for k in self._undesired if k[0] == name and k[1] not in todo.drain]:
            del self._undesired[key]
        if not todo.drain:
            return
        beats = await asyncio.to_thread(self._store.live_gateways)
        by_name = {version.worker_name: version for version in view.versions.values()}
        for adapter in todo.drain:
            version = by_name.get(adapter)
            since = await self._since(name, adapter, version, view)
            pairs = [(beat.revision, beat.busy) for beat in beats]
            if since is None or not drained(adapter, since, pairs) or not self._leading():
                continue
            await self._loader.unload(name, adapter)
            self._undesired.pop((name, adapter), None)
            if version is not None:
                await asyncio.to_thread(self._store.drop_placements, name, [version.id])
            logger.info("%s unloaded from %s", adapter, name)

    async def _since(
        self, worker: str, adapter: str, version: Version | None, view: View
    ) -> int | None:
        """The revision from which on nobody routes this adapter to the worker, if it has come."""
        if version is not None and version.draining_since is not None:
            return version.draining_since
        if version is not None and any(p.version_id == version.id for p in view.on(worker)):
            await asyncio.to_thread(self._store.drop_placements, worker, [version.id])
            return None
        return self._undesired.setdefault((worker, adapter), view.snapshot.revision)

    async def _prove(self, seen: Observed, version: Version, view: View) -> bool:
        """Load and verify one version unless it must wait; whether anything was tried."""
        key = (seen.worker, version.id)
        trial = self._trials.get(key)
        if trial is None or trial.boot != seen.boot:
            trial = Trial(seen.boot)
        if self._clock() < trial.not_before or not self._leading():
            return False
        if version.state is VersionState.REGISTERED:
            await self._set_state(version, VersionState.VERIFYING, f"Loading on {seen.worker}.")
        there = any(p.version_id == version.id for p in view.on(seen.worker))
        act = self._loader.reload if there else self._loader.ensure
        try:
            placement = await act(seen.worker, version)
        except WorkerResting as error:
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
