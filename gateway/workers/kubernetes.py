"""Finds workers by the endpoints of a Kubernetes service: listed once, and watched from there on.

The order of the questions is that of the API's own clients
(https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from gateway.workers.errors import LookupFailed
from gateway.workers.exchange import reason

logger = logging.getLogger(__name__)

ASK_S = 5.0
WATCH_S = 30
"""Seconds after which the server is asked to end a watch, so that silence means a dead line."""
SILENT_S = WATCH_S + 10.0
STALE_S = 30.0
"""Seconds for which what was told last may be told on while the server cannot be asked."""
SHORT_S = 1.0
CALM_S = 10.0
_PAUSES_S = (0.5, 15.0)
_LONGEST_LINE = 64 * 1024 * 1024
_API = "https://kubernetes.default.svc"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Conditions(msgspec.Struct):
    terminating: bool | None = None


class _Target(msgspec.Struct):
    name: str = ""
    uid: str = ""


class _Endpoint(msgspec.Struct, rename="camel"):
    addresses: list[str]
    conditions: _Conditions = msgspec.field(default_factory=_Conditions)
    target_ref: _Target | None = None

    @property
    def pod(self) -> str:
        """What tells its pod from others; empty where nothing does."""
        return (self.target_ref.uid or self.target_ref.name) if self.target_ref else ""


class _Port(msgspec.Struct):
    port: int | None = None


class _Slice(msgspec.Struct, rename="camel"):
    metadata: _Meta
    address_type: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[_Slice] | None


class _Mark(msgspec.Struct):
    metadata: _Meta


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Told(NamedTuple):
    """What a service's slices say: where its workers are, and the addresses of those that end."""

    found: frozenset[tuple[str, int]]
    ending: frozenset[str]


class _Place(NamedTuple):
    """Where a worker is; of several places of one pod, the least counts."""

    is_second_choice: bool
    address: str
    port: int


class Slices:
    """The EndpointSlices of one service, as a list and the events after it tell them."""

    def __init__(self, port: int | None) -> None:
        self.version = ""
        """Where a watch goes on from; opaque."""
        self._port = port
        self._slices: dict[str, _Slice] = {}

    def replace(self, body: bytes) -> None:
        """Begin anew from a list. Raises `msgspec.DecodeError`, and changes nothing then."""
        told = msgspec.json.decode(body, type=_List)
        self._slices = {one.metadata.name: one for one in told.items or ()}
        self.version = told.metadata.resource_version

    def apply(self, line: bytes) -> None:
        """Take in one event of a watch.

        Raises `LookupFailed` for one that ends it, so that a list must follow, and
        `msgspec.DecodeError` for what is none.
        """
        event = msgspec.json.decode(line, type=_Event)
        match event.type:
            case "ADDED" | "MODIFIED":
                one = msgspec.json.decode(event.object, type=_Slice)
                self._slices[one.metadata.name] = one
                self.version = one.metadata.resource_version
            case "DELETED":
                meta = msgspec.json.decode(event.object, type=_Mark).metadata
                self._slices.pop(meta.name, None)
                self.version = meta.resource_version
            case "BOOKMARK":
                meta = msgspec.json.decode(event.object, type=_Mark).metadata
                self.version = meta.resource_version
            case _:
                said = reason(bytes(event.object))
                raise LookupFailed(f"the watch of endpoints ends: {event.type} {said}")

    def told(self) -> Told:
        """Sum up all slices; an address that one of them lists does not end.

        A pod counts once, by its IPv4 address where it has one: where a service has both families,
        each has slices of its own. Those that are not ready count too, since the probes know
        better; a pod that ends does so in all its slices, whichever says so first.
        """
        places: dict[str | _Place, _Place] = {}
        ending: set[str] = set()
        ended: set[str | _Place] = set()
        for one in self._slices.values():
            listed = next((p.port for p in one.ports or () if p.port is not None), None)
            port = self._port or listed
            for endpoint in one.endpoints or ():
                if endpoint.conditions.terminating:
                    ending.update(endpoint.addresses)
                    ended.add(endpoint.pod)
                elif port is not None and endpoint.addresses:
                    # The addresses of one endpoint are one pod's.
                    place = _Place(one.address_type != "IPv4", endpoint.addresses[0], port)
                    pod = endpoint.pod or place
                    places[pod] = min(place, places.get(pod, place))
        ending.update(place.address for pod, place in places.items() if pod in ended)
        left = [place for pod, place in places.items() if pod not in ended]
        found = frozenset((place.address, place.port) for place in left)
        return Told(found, frozenset(ending - {place.address for place in left}))


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, bounded, jittered."""
    least, most = _PAUSES_S
    return min(most, least * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1)  # noqa: S311 (no secret)


class Kubernetes:
    """One worker for each endpoint of a service that does not end.

    `follow` keeps it up to date; `find` tells of it at once.
    """

    grace_s = 5.0
    """An endpoint may be in no slice for a moment, while it moves from one to another."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        service: str,
        namespace: str,
        port: int | None,
        *,
        api: str = _API,
        account: Path = _ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[int], float] = pause,
    ) -> None:
        self._session = session
        self._url = f"{api}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._query = {"labelSelector": f"kubernetes.io/service-name={service}"}
        self._account = account
        self._clock = clock
        self._pause = pause
        self._slices = Slices(port)
        self._told = Told(frozenset(), frozenset())
        self._true_at = float("-inf")
        self._watches = False
        self._tried, self._news = asyncio.Event(), asyncio.Event()
        self._trouble = ""

    @property
    def ending(self) -> frozenset[str]:
        """Addresses of pods that are being ended."""
        return self._told.ending

    async def find(self) -> frozenset[tuple[str, int]]:
        """Give what is known now, after waiting for the first list. Raises `LookupFailed`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_S):
                await self._tried.wait()
        if not self._watches and self._clock() - self._true_at > STALE_S:
            raise LookupFailed(self._trouble or f"{self._url} does not answer")
        return self._told.found

    async def changed(self) -> None:
        """Return once there are others than at the last return."""
        await self._news.wait()
        self._news.clear()

    async def follow(self) -> None:
        """List and watch until cancelled; after a failure, anew and in no hurry."""
        failures = 0
        while True:
            began = self._clock()
            try:
                await self._list()
                while True:
                    await self._watch()
            except LookupFailed as error:
                self._note(str(error))
            except Exception as error:
                self._note(f"{self._url}: {type(error).__name__}: {error}")
            finally:
                self._watches = False
            self._tried.set()
            failures = 0 if self._clock() - began > CALM_S else failures + 1
            await asyncio.sleep(self._pause(failures))

    async def _list(self) -> None:
        limits = aiohttp.ClientTimeout(total=ASK_S)
        async with self._answer(self._query, limits) as answer:
            self._slices.replace(await answer.read())
        self._publish()
        self._tried.set()

    async def _watch(self) -> None:
        """Take in events until the server ends the watch, as it was asked to."""
        began = self._clock()
        more = {
            "watch": "true",
            "resourceVersion": self._slices.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=ASK_S, sock_read=SILENT_S)
        async with self._answer(self._query | more, limits) as answer:
            self._watches = True
            async for line in _lines(answer.content.iter_any()):
                self._slices.apply(line)
                self._publish()
        self._true_at = self._clock()
        if self._true_at - began < SHORT_S:
            raise LookupFailed(f"{self._url} ends a watch at once")
        self._trouble = ""

    @asynccontextmanager
    async def _answer(
        self, query: Mapping[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask as the pod's service account. Raises `LookupFailed` for all but a 200."""
        token, trust = await asyncio.to_thread(self._credentials)
        async with self._session.get(
            self._url,
            params=query,
            headers={"authorization": f"Bearer {token}"},
            ssl=trust,
            allow_redirects=False,
            timeout=limits,
        ) as answer:
            if answer.status != 200:
                said = reason(await answer.read())
                raise LookupFailed(f"{self._url} answers {answer.status}: {said}")
            yield answer

    def _credentials(self) -> tuple[str, ssl.SSLContext]:
        """Read them anew: a service account's token is renewed within the hour."""
        token = (self._account / "token").read_text(encoding="ascii").strip()
        return token, ssl.create_default_context(cafile=self._account / "ca.crt")

    def _publish(self) -> None:
        self._true_at = self._clock()
        told, before = self._slices.told(), self._told
        if told != before:
            self._told = told
            self._news.set()

    def _note(self, trouble: str) -> None:
        """One line per change; what lasts is told by `find` too."""
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning("endpoints will be listed again: %s", trouble)


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream into lines; raises `ValueError` for one without an end."""
    rest = bytearray()
    async for part in parts:
        *lines, last = part.split(b"\n")
        for line in lines:
            rest += line
            if rest:
                yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > _LONGEST_LINE:
            raise ValueError("the watch sends a line without an end")
