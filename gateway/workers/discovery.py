"""Finds workers whose number changes: by DNS, by a Kubernetes service's endpoints, or in a file.

An entry of the configuration whose URL begins with `dns+`, `k8s+` or `file+` stands for as many
workers as are found; each is called `entry@address`, so that its name lasts as long as its address.
Those of a file are told apart by their ports too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import aiohttp

from gateway.registry.snapshot import Snapshot, WorkerOptions, WorkerSpec
from gateway.settings import WorkerSettings
from gateway.workers.errors import LookupFailed
from gateway.workers.file_source import FileList
from gateway.workers.kubernetes import Kubernetes

logger = logging.getLogger(__name__)

LOOK_S = 5.0
FILE_LOOK_S = 1.0
GRACE_S = 60.0
"""Seconds after which a worker that nothing lists any more is removed: lists blink."""
_TOGETHER_S = 0.1


class Source(Protocol):
    """Where the workers of one entry are found."""

    async def find(self) -> frozenset[tuple[str, int]]:
        """Give their addresses and ports. Raises `LookupFailed`."""
        ...


@runtime_checkable
class Watched(Source, Protocol):
    """A source that is told of changes, so that nobody need ask it again and again."""

    grace_s: float
    """Seconds after which a worker that it lists no more is removed."""

    @property
    def ending(self) -> Collection[str]:
        """Addresses of workers that surely end: they are removed at once."""
        ...

    async def follow(self) -> None:
        """Keep up with the changes until cancelled."""
        ...

    async def changed(self) -> None:
        """Return once there are changes since the last return."""
        ...


class Dns:
    """One worker for each A record of a name, or where it has none for each AAAA record.

    A pod with both families has a record of each, and nothing tells that they are one pod's.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def find(self) -> frozenset[tuple[str, int]]:
        """Look the name up."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOK_S):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise LookupFailed(f"{self._host}: {error or 'no answer in time'}") from error
        first = [one for one in found if one[0] == socket.AF_INET] or found
        return frozenset((str(address[0]), self._port) for *_, address in first)


def source_of(entry: WorkerSettings, session: aiohttp.ClientSession) -> Source | None:
    """Make an entry's source; None for an entry that is a worker itself."""
    parts = urlsplit(entry.url)
    how, _, scheme = parts.scheme.rpartition("+")
    host = parts.hostname or ""
    if path := entry.file:
        return FileList(path)
    match how:
        case "dns":
            return Dns(host, parts.port or (443 if scheme == "https" else 80))
        case "k8s":
            service, _, namespace = host.partition(".")
            return Kubernetes(session, service, namespace, parts.port)
        case _:
            return None


def spec_of(entry: WorkerSettings) -> WorkerSpec:
    """Give what the registry keeps of an entry."""
    options = WorkerOptions(entry.api_key_env, tuple(entry.models.items()), entry.base)
    return WorkerSpec(entry.name, entry.url, entry.kind, options)


def found_spec(entry: WorkerSettings, address: str, port: int) -> WorkerSpec:
    """Give what the registry keeps of a worker that was found for an entry."""
    parts = urlsplit(entry.url)
    scheme = parts.scheme.rpartition("+")[2]
    host = f"[{address}]" if ":" in address else address
    told = spec_of(entry)
    if entry.file:
        return WorkerSpec(
            f"{entry.name}@{host}:{port}", f"http://{host}:{port}", told.kind, told.options
        )
    name, url = f"{entry.name}@{address}", f"{scheme}://{host}:{port}{parts.path}"
    return WorkerSpec(name, url, told.kind, told.options)


class WorkerStore(Protocol):
    """What discovery needs of the registry; synchronous, called in threads."""

    def snapshot(self) -> Snapshot:
        """Everything that routing needs."""
        ...

    def upsert_worker(self, spec: WorkerSpec) -> None:
        """Make a worker known, or change what is known of it."""
        ...

    def remove_worker(self, name: str) -> bool:
        """Forget a worker."""
        ...


class Discovery:
    """Keeps the registry's workers as the sources list them; for the controller that leads."""

    def __init__(
        self,
        store: WorkerStore,
        entries: Iterable[tuple[WorkerSettings, Source]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._entries = tuple(entries)
        self._names = {entry.name for entry, _ in self._entries}
        self._clock = clock
        self._missing: dict[str, dict[str, float]] = {}
        self._trouble: dict[str, str] = {}

    async def run(self, leads: Callable[[], bool], idle_s: float) -> None:
        """Look every `LOOK_S` seconds while leading, and sooner where a source tells of changes.

        Each entry by itself, so that a name server that is slow holds up no other entry.
        """
        async with asyncio.TaskGroup() as group:
            for entry, source in self._entries:
                news = None
                if isinstance(source, Watched):
                    group.create_task(source.follow(), name=f"endpoints of {entry.name}")
                    news = source.changed
                look = partial(self._look, entry, source)
                every_s = FILE_LOOK_S if isinstance(source, FileList) else LOOK_S
                group.create_task(self._again(look, leads, idle_s, every_s, news))
            group.create_task(self._again(self._sweep, leads, idle_s, LOOK_S))

    async def step(self) -> None:
        """Look once: add what is new, remove what has been missing for long."""
        for entry, source in self._entries:
            await self._look(entry, source)
        await self._sweep()

    def stand_by(self) -> None:
        """Forget how long workers have been missing: another controller leads."""
        self._missing.clear()

    async def _again(
        self,
        look: Callable[[], Awaitable[None]],
        leads: Callable[[], bool],
        idle_s: float,
        every_s: float,
        news: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        while True:
            led = leads()
            try:
                if led:
                    await look()
                else:
                    self.stand_by()
            except Exception as error:  # the store is away, which the control loop tells of
                logger.debug("discovery fails, and is tried again: %s", error)
            if not led or news is None:
                await asyncio.sleep(every_s if led else idle_s)
                continue
            await asyncio.sleep(_TOGETHER_S)  # what comes together is one look
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await news()

    async def _look(self, entry: WorkerSettings, source: Source) -> None:
        """Bring one entry's workers up to date; a source that is silent removes nobody."""
        try:
            addresses = await source.find()
        except LookupFailed as error:
            self._note(entry.name, str(error))
            return
        self._note(entry.name, "")
        found: dict[str, WorkerSpec] = {}
        for address, port in sorted(addresses):
            spec = found_spec(entry, address, port)
            if isinstance(source, FileList):
                left_out = source.left_out((address, port))
                spec = replace(spec, left_out=tuple(sorted(left_out.items())))
            found[spec.name] = spec
        known = (await asyncio.to_thread(self._store.snapshot)).workers
        for name, spec in found.items():
            if known.get(name) != spec:
                await asyncio.to_thread(self._store.upsert_worker, spec)
                logger.info("worker %s is at %s", name, spec.url)
        # A file does not blink.
        grace_s, ending = 0.0 if isinstance(source, FileList) else GRACE_S, set[str]()
        if isinstance(source, Watched):
            grace_s = source.grace_s
            ending = {f"{entry.name}@{address}" for address in source.ending}
        mine = (name for name in known if _owner(name) == entry.name)
        await self._remove(entry.name, {*mine} - {*found}, ending, grace_s)

    async def _sweep(self) -> None:
        """Remove what was found for entries that are configured no more."""
        known = (await asyncio.to_thread(self._store.snapshot)).workers
        left = {name for name in known if (owner := _owner(name)) and owner not in self._names}
        await self._remove("", left, (), GRACE_S)

    async def _remove(
        self, owner: str, gone: Collection[str], ending: Collection[str], grace_s: float
    ) -> None:
        """Remove those that are gone for so long, and those that end."""
        now, before = self._clock(), self._missing.get(owner, {})
        self._missing[owner] = missing = {name: before.get(name, now) for name in gone}
        for name, since in sorted(missing.items()):
            if name in ending:
                why = "it ends"
            elif now - since >= grace_s:
                why = f"nothing has listed it for {grace_s:g} s"
            else:
                continue
            await asyncio.to_thread(self._store.remove_worker, name)
            logger.info("worker %s is gone: %s", name, why)

    def _note(self, entry: str, trouble: str) -> None:
        """One line per change, as for the control loop."""
        if self._trouble.get(entry, "") != trouble:
            self._trouble[entry] = trouble
            if trouble:
                logger.warning("workers of %s cannot be looked up: %s", entry, trouble)
            else:
                logger.info("workers of %s can be looked up again", entry)


def _owner(name: str) -> str:
    """Name the entry that a worker was found for; empty for one that is an entry itself."""
    owner, at, _ = name.partition("@")
    return owner if at else ""
