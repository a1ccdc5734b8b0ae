"""The controller's loops: leadership, and reconciling while leading.

There is a pass once a second, and sooner when workers or the registry have news.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from gateway.controller.lease import Leadership, LeaseStore
from gateway.controller.reconcile import ControlStore, Reconciler
from gateway.errors import StoreUnavailable
from gateway.registry.snapshot import WorkerSpec
from gateway.settings import PlacementSettings
from gateway.workers.admin import WorkerAdmin
from gateway.workers.discovery import Discovery, WorkerStore
from gateway.workers.loader import Evidence, Loader
from gateway.workers.probe import WorkerWatch

logger = logging.getLogger(__name__)

STEP_S = 1.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that the leader does now and then, in a thread; it remembers nothing by itself."""

    name: str
    every_s: float
    work: Callable[[], object]


class Store(ControlStore, Evidence, LeaseStore, WorkerStore, Protocol):
    """All that the controller needs of the registry."""

    def prepare(self) -> None:
        """Make what must always be there."""
        ...


class Controller:
    """Runs until cancelled. Several may run: the one that holds the lease acts."""

    def __init__(
        self,
        store: Store,
        make_admin: Callable[[WorkerSpec], WorkerAdmin],
        workers: Iterable[WorkerSpec],
        *,
        holder: str,
        max_cpu_loras: int,
        placement: PlacementSettings | None = None,
        step_s: float = STEP_S,
        probe_s: float = 1.0,
        chores: Sequence[Chore] = (),
        discovery: Discovery | None = None,
        bases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._workers = tuple(workers)
        self._step_s = step_s
        self._watch = WorkerWatch(make_admin, bases=bases, interval=probe_s)
        self._max_cpu_loras = max_cpu_loras
        self._placement = placement or PlacementSettings()
        self._leadership = Leadership(store, holder)
        self._configured = False
        self._trouble = ""
        self._chores = tuple(chores)
        self._discovery = discovery

    async def run(self) -> None:
        """Lead when possible and reconcile while leading."""
        async with (
            Loader(self._watch, self._store, max_cpu_loras=self._max_cpu_loras) as loader,
            asyncio.TaskGroup() as group,
        ):
            reconciler = Reconciler(
                self._store,
                self._watch,
                loader,
                max_cpu_loras=self._max_cpu_loras,
                settings=self._placement,
                leading=lambda: self._leadership.held,
            )
            group.create_task(self._watch.run(), name="watch")
            group.create_task(self._leadership.run(), name="lease")
            for chore in self._chores:
                group.create_task(self._do(chore), name=chore.name)
            if self._discovery is not None:
                group.create_task(self._discover(self._discovery), name="discovery")
            await self._reconcile(reconciler, group)

    async def _reconcile(self, reconciler: Reconciler, group: asyncio.TaskGroup) -> None:
        led = False
        while True:
            leads, changes = self._leadership.held, self._watch.changes
            if led and not leads:
                reconciler.stand_by()
            led = leads
            try:
                await self._configure()
                if leads:
                    await reconciler.step(group)
            except Exception as error:
                self._note(f"{type(error).__name__}: {error}".splitlines()[0])
            else:
                self._note("")
            await self._until_due(reconciler if leads else None, changes)

    async def _until_due(self, reconciler: Reconciler | None, changes: int) -> None:
        """Wait for news since the watch had seen `changes`, or else until the next step is due."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._step_s
        await asyncio.sleep(min(POLL_S, self._step_s) / 2)  # what comes together is one pass
        while self._watch.changes == changes and (left := due - loop.time()) > 0:
            if await self._watch.wait_change(min(POLL_S, left)):
                return
            with suppress(StoreUnavailable):  # the next step will tell
                if reconciler is not None and await reconciler.has_news():
                    return

    async def _do(self, chore: Chore) -> None:
        """Do a chore again and again while leading; one that fails comes again."""
        trouble = ""
        while True:
            if not self._leadership.held:
                await asyncio.sleep(min(self._step_s, chore.every_s))
                continue
            try:
                await asyncio.to_thread(chore.work)
                trouble = ""
            except Exception as error:
                said = f"{type(error).__name__}: {error}".splitlines()[0]
                if said != trouble:
                    trouble = said
                    logger.error("%s fails, and is tried again: %s", chore.name, said)
            await asyncio.sleep(chore.every_s)

    async def _discover(self, discovery: Discovery) -> None:
        """Look for workers again and again while leading."""
        while True:
            try:
                if self._leadership.held and self._configured:
                    await discovery.step()
                else:
                    discovery.stand_by()
            except Exception as error:  # the store is away, which the control loop tells of
                logger.debug("discovery fails, and is tried again: %s", error)
            await asyncio.sleep(discovery.look_s if self._leadership.held else self._step_s)

    async def _configure(self) -> None:
        """Make the configured workers known, once the store can be reached."""
        if not self._configured:
            await asyncio.to_thread(self._store.prepare)
            for spec in self._workers:
                await asyncio.to_thread(self._store.upsert_worker, spec)
            self._configured = True

    def _note(self, trouble: str) -> None:
        """One line per change: a store that is down for an hour is one line, not thousands."""
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                logger.error("the control loop fails, and goes on trying: %s", trouble)
            else:
                logger.info("the control loop works again")
