"""Finds workers whose number changes: by DNS, by a Kubernetes service's endpoints, or in a file.

An entry of the configuration whose URL begins with `dns+`, `k8s+` or `file+` stands for as many
workers as are found; each is called `entry@address`, so that its name lasts as long as its address.
Those of a file are told apart by their ports too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec

from gateway.registry.snapshot import Snapshot, WorkerOptions, WorkerSpec
from gateway.settings import WorkerSettings
from gateway.workers.errors import LookupFailed
from gateway.workers.exchange import reason
from gateway.workers.file_source import FileList

logger = logging.getLogger(__name__)

LOOK_S = 5.0
FILE_LOOK_S = 1.0
GRACE_S = 60.0
"""Seconds after which a worker that nothing lists any more is removed: lists blink."""
_API = "https://kubernetes.default.svc"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Source(Protocol):
    """Where the workers of one entry are found."""

    async def find(self) -> frozenset[tuple[str, int]]:
        """Give their addresses and ports. Raises `LookupFailed`."""
        ...


class Dns:
    """One worker for each A or AAAA record of a name."""

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
        return frozenset((str(address[0]), self._port) for *_, address in found)


class _Conditions(msgspec.Struct):
    terminating: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)


class _Port(msgspec.Struct):
    port: int | None = None


class _Slice(msgspec.Struct):
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _Slices(msgspec.Struct):
    items: list[_Slice]


class Kubernetes:
    """One worker for each endpoint of a service, as its EndpointSlices list them.

    Those that are not ready count too, since the probes know better; those that end do not.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        service: str,
        namespace: str,
        port: int | None,
        *,
        api: str = _API,
        account: Path = _ACCOUNT,
    ) -> None:
        self._session = session
        self._url = f"{api}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        self._port = port
        self._account = account

    async def find(self) -> frozenset[tuple[str, int]]:
        """Ask the API server, as the pod's service account."""
        try:
            token, trust = await asyncio.to_thread(self._credentials)
            async with self._session.get(
                self._url,
                params=self._query,
                headers={"authorization": f"Bearer {token}"},
                ssl=trust,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=LOOK_S),
            ) as answer:
                status, body = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LookupFailed(f"{self._url}: {type(error).__name__}: {error}") from error
        if status != 200:
            raise LookupFailed(f"{self._url} answers {status}: {reason(body)}")
        try:
            slices = msgspec.json.decode(body, type=_Slices).items
        except msgspec.DecodeError as error:
            raise LookupFailed(f"{self._url} cannot be read: {error}") from error
        return frozenset(found for one in slices for found in _addresses(one, self._port))

    def _credentials(self) -> tuple[str, ssl.SSLContext]:
        """Read them anew: a service account's token is renewed within the hour."""
        token = (self._account / "token").read_text(encoding="ascii").strip()
        return token, ssl.create_default_context(cafile=self._account / "ca.crt")


def _addresses(one: _Slice, port: int | None) -> Iterable[tuple[str, int]]:
    listed = next((p.port for p in one.ports or () if p.port is not None), None)
    if (chosen := port or listed) is None:
        return
    for endpoint in one.endpoints or ():
        if not endpoint.conditions.terminating:
            yield from ((address, chosen) for address in endpoint.addresses)


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
        self.look_s = FILE_LOOK_S if any(e.file for e, _ in self._entries) else LOOK_S
        self._clock = clock
        self._missing: dict[str, float] = {}
        self._trouble: dict[str, str] = {}

    async def step(self) -> None:
        """Look once: add what is new, remove what has been missing for long."""
        found: dict[str, WorkerSpec] = {}
        silent, steady = set(), set()
        for entry, source in self._entries:
            try:
                addresses = await source.find()
            except LookupFailed as error:
                silent.add(entry.name)
                self._note(entry.name, str(error))
                continue
            self._note(entry.name, "")
            if entry.file:
                steady.add(entry.name)
            specs = (found_spec(entry, address, port) for address, port in sorted(addresses))
            found |= {spec.name: spec for spec in specs}
        known = (await asyncio.to_thread(self._store.snapshot)).workers
        for name, spec in found.items():
            if known.get(name) != spec:
                await asyncio.to_thread(self._store.upsert_worker, spec)
                logger.info("worker %s is at %s", name, spec.url)
        for name in self._overdue(known, found, silent, steady):
            await asyncio.to_thread(self._store.remove_worker, name)
            logger.info("worker %s is gone: it is no longer listed", name)

    def stand_by(self) -> None:
        """Forget how long workers have been missing: another controller leads."""
        self._missing.clear()

    def _overdue(
        self,
        known: Mapping[str, WorkerSpec],
        found: Mapping[str, WorkerSpec],
        silent: set[str],
        steady: set[str],
    ) -> list[str]:
        """Name those found once that no answer lists for so long; who is silent removes nobody.

        Entries whose lists are `steady` need no grace time.
        """
        now = self._clock()
        gone = [name for name in known if "@" in name and name not in found]
        self._missing = {name: self._missing.get(name, now) for name in gone}
        return [
            name
            for name, since in self._missing.items()
            if (entry := name.partition("@")[0]) not in silent
            and (now - since >= GRACE_S or entry in steady)
        ]

    def _note(self, entry: str, trouble: str) -> None:
        """One line per change, as for the control loop."""
        if self._trouble.get(entry, "") != trouble:
            self._trouble[entry] = trouble
            if trouble:
                logger.warning("workers of %s cannot be looked up: %s", entry, trouble)
            else:
                logger.info("workers of %s can be looked up again", entry)
