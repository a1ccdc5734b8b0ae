"""What each worker says of itself, probed again and again.

`Prober` asks one worker and tracks its boot identity; `WorkerWatch` keeps one task per worker and
publishes what they find as one immutable mapping. Gateways and the controller use the same code.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.registry.names import VERSION_NAME, model_name
from gateway.registry.snapshot import BASE_ALIAS, DEFAULT_TENANT, Placement, Version, WorkerSpec
from gateway.workers.admin import Ask, ServedModel, WorkerAdmin, WorkerMetrics
from gateway.workers.errors import WorkerSlow, WorkerUnreachable

logger = logging.getLogger(__name__)

SLOW_PROBES = 3  # late answers in a row before a busy worker counts as down
COUNTED = "~"  # marks boots that only the process which counted them can compare


@dataclass(frozen=True, slots=True)
class Observed:
    """One worker as last probed; `at` is in seconds since the epoch.

    `active` are the adapters of the running batch, as far as the worker tells. `asks` holds the
    fields that choose a model where its name alone does not; a `static` worker holds what it was
    started with, and loads nothing. `merged` are the names of a worker that was started with a
    merged model in place of a base: then it has no base, and takes no adapters. `base_model` is
    empty where nothing is told apart. Who is `asleep` is not healthy; `naps` counts how often it
    was found so. `context` is how many tokens a prompt and its answer have together at most, where
    it tells.
    """

    worker: str
    healthy: bool = False
    boot: str = ""
    names: frozenset[str] = frozenset()
    bases: frozenset[str] = frozenset()
    merged: frozenset[str] = frozenset()
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    active: frozenset[str] = frozenset()
    at: float = 0.0
    detail: str = ""
    asks: Mapping[str, Ask] = field(default_factory=dict)
    static: bool = False
    base_model: str = ""
    asleep: bool = False
    naps: int = 0
    context: int | None = None

    @property
    def adapters(self) -> frozenset[str]:
        """The names that are not the worker's own model."""
        return self.names - self.bases - self.merged

    @property
    def base(self) -> str | None:
        """A name of the worker's base model."""
        return min(self.bases, default=None)

    def name_of(self, version: Version) -> str | None:
        """The name that the version has on this worker, None where it is not there.

        A static worker may show the name that clients use, which is the default tenant's.
        """
        if version.is_base:
            return self.base if self._has_base(version) else None
        if version.worker_name in self.names:
            return version.worker_name
        declared = self.static and version.tenant == DEFAULT_TENANT and version.model in self.names
        return version.model if declared else None

    def serves(self, version: Version) -> bool:
        """Whether the version's name is there; that says nothing about what answers to it."""
        return self.name_of(version) is not None

    def fits(self, version: Version) -> bool:
        """Whether the worker can hold the version at all: it does, or it can be told to load it."""
        if version.is_merged:
            return self.serves(version)
        able = self.serves(version) or (bool(self.bases) and not self.static)
        return able and self._has_base(version)

    def _has_base(self, version: Version) -> bool:
        if self.base_model:
            return model_name(self.base_model) == model_name(version.base_model)
        # A further base that is no longer configured keeps its alias, and gets no worker.
        return not version.is_base or version.alias == BASE_ALIAS

    def same_boot(self, placement: Placement) -> bool:
        """Whether the placement was made for the process that runs now.

        Where a worker does not tell when it started, each prober counts boots by itself, and the
        evidence that other processes share is the name: a restarted worker has forgotten it, and
        whoever loads it again has dropped the old placement first.
        """
        if placement.boot == self.boot:
            return bool(self.boot)
        return placement.boot[:1] == COUNTED and self.boot[:1] == COUNTED

    def same_but_load(self, other: Observed) -> bool:
        """Whether nothing that routing by name depends on differs."""
        return (self.healthy, self.boot, self.names, self.bases, self.asks) == (
            other.healthy,
            other.boot,
            other.names,
            other.bases,
            other.asks,
        )


def base_model_of(
    declared: str | None, models: Iterable[ServedModel], bases: Mapping[str, str]
) -> str:
    """Tell which of several base models a worker has: `bases` are their names by alias.

    The declared one, else the one that its list names, else the default one. Empty where there is
    only one and none is declared.
    """
    if declared is not None:
        return bases.get(declared, declared)
    if len(bases) < 2:
        return ""
    own = [model for model in models if model.is_base]
    listed = {model_name(text) for model in own for text in (model.name, model.root)}
    return next((m for m in bases.values() if model_name(m) in listed), bases[BASE_ALIAS])


class Prober:
    """Asks one worker. Raises nothing that a worker can cause: faults become an `Observed`."""

    def __init__(
        self,
        spec: WorkerSpec,
        admin: WorkerAdmin,
        *,
        bases: Mapping[str, str] = MappingProxyType({}),
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self.admin = admin
        self.last = Observed(spec.name, detail="Not probed yet.")
        self._bases = bases
        self._timeout = timeout
        self._clock = clock
        self._lock = asyncio.Lock()
        self._late = 0
        self._count = 0
        self._naps = 0
        self._token = secrets.token_hex(4)
        self._leaving: set[str] = set()

    async def probe(self) -> Observed:
        """Probe now. Probes of one worker take turns, so that boots are counted in order."""
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout):
                    self.last = await self._ask()
                self._late = 0
            except (TimeoutError, WorkerSlow):
                self.last = self._slow()
            except WorkerUnreachable as error:
                self.last = self._down(error.message)
            except Exception as error:  # else what it said last would hold for ever
                logger.exception("probing worker %s failed", self.spec.name)
                self.last = self._down(f"Its answers cannot be read: {error}")
            return self.last

    def leaving(self, name: str) -> None:
        """Announce that a name will go because we unload it, which is no sign of a restart."""
        self._leaving.add(name)

    async def _ask(self) -> Observed:
        if not await self.admin.health():
            return self._down("The worker says that it is not ready.")
        models = await self.admin.models()
        metrics = await self.admin.metrics()
        return self._asleep() if metrics.asleep else self._up(models, metrics)

    def _up(self, models: tuple[ServedModel, ...], metrics: WorkerMetrics) -> Observed:
        names = frozenset(model.name for model in models)
        own = frozenset(model.name for model in models if model.is_base)
        merged = own if any(VERSION_NAME.fullmatch(name) for name in own) else frozenset()
        if self.last.names - names - self._leaving:
            self._count += 1
        self._leaving &= names
        return Observed(
            worker=self.spec.name,
            healthy=True,
            boot=metrics.boot or f"{COUNTED}{self._token}-{self._count}",
            names=names,
            bases=own - merged,
            merged=merged,
            running=metrics.running,
            waiting=metrics.waiting,
            kv_usage=metrics.kv_usage,
            active=metrics.active,
            at=self._clock(),
            asks={model.name: model.ask for model in models if model.ask is not None},
            static=not self.admin.capabilities.runtime_load,
            base_model=base_model_of(self.spec.options.base, models, self._bases),
            naps=self._naps,
            context=next((model.context for model in models if model.is_base), None),
        )

    def _asleep(self) -> Observed:
        """Its boot stays, so whoever keeps something of a boot goes by the naps too."""
        self._naps += not self.last.asleep
        return replace(self._down("The worker sleeps."), asleep=True, naps=self._naps)

    def _down(self, detail: str) -> Observed:
        if self.last.healthy:
            self._count += 1
        return Observed(self.spec.name, at=self._clock(), detail=detail)

    def _slow(self) -> Observed:
        """A worker under load answers late: it keeps its place for a few probes."""
        self._late += 1
        detail = f"{self._late} probes in a row took longer than {self._timeout:g} s."
        if self._late >= SLOW_PROBES or not self.last.healthy:
            return self._down(detail)
        return replace(self.last, detail=detail)


class WorkerWatch:
    """Probes a changing set of workers; `run` must be kept in a task of the owner's group.

    `observed` is replaced as a whole, never changed: a reader's copy stays one consistent view.
    `on_seen`, where set, is told of each reading right after.
    """

    def __init__(
        self,
        make_admin: Callable[[WorkerSpec], WorkerAdmin],
        *,
        bases: Mapping[str, str] = MappingProxyType({}),
        interval: float = 1.0,
        timeout: float = 5.0,
    ) -> None:
        self.observed: Mapping[str, Observed] = MappingProxyType({})
        self.changes = 0
        self.on_seen: Callable[[Observed], None] | None = None
        self._make_admin = make_admin
        self._bases = bases
        self._interval = interval
        self._timeout = timeout
        self._probers: dict[str, Prober] = {}
        self._tasks: dict[str, tuple[Prober, asyncio.Task[None]]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()
        self._respec = asyncio.Event()

    def set_workers(self, specs: Iterable[WorkerSpec]) -> None:
        """Watch these workers from now on; call it with each new snapshot.

        Every worker is probed soon after, since a new snapshot often means a new placement, and
        those who wait for a change look again.
        """
        wanted = {spec.name: spec for spec in specs}
        for name, prober in list(self._probers.items()):
            spec = wanted.get(name)
            if spec is None or not spec.is_reached_as(prober.spec):
                del self._probers[name]
        for name, spec in wanted.items():
            if name not in self._probers:
                self._add(spec)
            self.suspect(name)
        kept = {name: p.last for name, p in self._probers.items()}
        self.observed = MappingProxyType(kept)
        self._respec.set()
        self.notify()

    def _add(self, spec: WorkerSpec) -> None:
        try:
            admin = self._make_admin(spec)
        except Exception:
            logger.exception("worker %s cannot be watched", spec.name)
            return
        self._probers[spec.name] = Prober(spec, admin, bases=self._bases, timeout=self._timeout)

    @property
    def names(self) -> Set[str]:
        """The workers that are watched."""
        return self._probers.keys()

    def suspect(self, worker: str) -> None:
        """Probe this worker now: somebody could not connect to it."""
        if worker in self._pokes:
            self._pokes[worker].set()

    def admin(self, worker: str) -> WorkerAdmin:
        """The admin client of a watched worker. Raises `WorkerUnreachable` for others."""
        return self._prober(worker).admin

    async def look(self, worker: str) -> Observed:
        """Probe a watched worker and wait for the answer."""
        prober = self._prober(worker)
        seen = await prober.probe()
        self._publish(prober, seen)
        return seen

    def leaving(self, worker: str, name: str) -> None:
        """Announce that a name will go because we unload it."""
        self._prober(worker).leaving(name)

    async def wait_change(self, timeout: float) -> bool:  # noqa: ASYNC109 (a bound, not a cancel)
        """Wait until health, boots, names or the snapshot change; False when `timeout` s passed.

        No change is lost between reading `observed` and calling this, if nothing is awaited there.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def notify(self) -> None:
        """Wake everybody in `wait_change`, and count the change for those who look later."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Keep one probing task per worker until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._respec.clear()
                for name, (prober, task) in list(self._tasks.items()):
                    if self._probers.get(name) is not prober:
                        task.cancel()
                        del self._tasks[name], self._pokes[name]
                for name, prober in self._probers.items():
                    if name not in self._tasks:
                        poke = self._pokes[name] = asyncio.Event()
                        task = group.create_task(self._watch(prober, poke), name=f"probe {name}")
                        self._tasks[name] = (prober, task)
                await self._respec.wait()

    async def _watch(self, prober: Prober, poke: asyncio.Event) -> None:
        while True:
            poke.clear()
            try:
                self._publish(prober, await prober.probe())
            except Exception:
                logger.exception("probing worker %s failed", prober.spec.name)
            # A worker that is down is asked more often: calls are waiting for it.
            pause = self._interval if prober.last.healthy else min(self._interval, 0.25)
            try:
                async with asyncio.timeout(pause):
                    await poke.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(0.02)  # a burst of failures asks for one probe, not a hundred

    def _publish(self, prober: Prober, seen: Observed) -> None:
        name = prober.spec.name
        if self._probers.get(name) is not prober:
            return
        before = self.observed.get(name)
        self.observed = MappingProxyType({**self.observed, name: seen})
        if self.on_seen is not None:
            self.on_seen(seen)
        if before is None or not seen.same_but_load(before):
            if before is None or before.healthy != seen.healthy:
                state = "healthy" if seen.healthy else "down"
                logger.info("worker %s is %s %s", name, state, seen.detail)
            self.notify()

    def _prober(self, worker: str) -> Prober:
        try:
            return self._probers[worker]
        except KeyError:
            raise WorkerUnreachable(f"Worker {worker} is not watched.") from None
