"""What the routes of one gateway process share; built by the lifespan, never global."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from feedback.desk import Desk
from feedback.errors import StoreAway
from feedback.outbox import Outbox
from feedback.scrub import Scrubber
from feedback.usage import tokens_of
from gateway.errors import Overloaded, StoreUnavailable, Unauthenticated
from gateway.limiting import Grant, Limiter
from gateway.parallel import Parallel
from gateway.registry.service import Registry
from gateway.registry.snapshot import Key
from gateway.serving.keeper import SnapshotKeeper
from gateway.serving.metrics import Metrics
from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from gateway.serving.http import Header
    from gateway.serving.pipeline import Deps
    from gateway.serving.router import Router
    from guardrails.policy_book import PolicyBook


class Serving:
    """Keys, admission, and the way to the pipeline's parts."""

    def __init__(self, settings: GatewaySettings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = Metrics()
        self.limiter = Limiter(settings.limits.store, self._spent)
        self.parallel = Parallel(settings.limits.max_parallel)
        self.in_flight = 0
        self.outbox: Outbox | None = None
        self.desk: Desk | None = None
        self.engine: Engine | None = None
        self._keeper: SnapshotKeeper | None = None
        self._deps: Deps | None = None

    def open(self, keeper: SnapshotKeeper) -> None:
        """Begin: keys can be checked once the keeper has a snapshot."""
        self._keeper = keeper

    def serve(self, deps: Deps) -> None:
        """All parts are there."""
        self._deps = deps

    def record(self, desk: Desk) -> None:
        """Answers and feedback can be kept."""
        self.desk = desk

    @property
    def database(self) -> Engine:
        """The feedback store's database. Raises `StoreUnavailable` before start."""
        if self.engine is None:
            raise StoreUnavailable
        return self.engine

    @property
    def scrubber(self) -> Scrubber:
        """What takes personal data out of texts. Raises `StoreUnavailable` before start."""
        if self.desk is None:
            raise StoreUnavailable
        return self.desk.scrubber

    @property
    def policies(self) -> PolicyBook:
        """The guard policies that hold. Raises `StoreUnavailable` before start."""
        return self.deps.policies

    @property
    def keeper(self) -> SnapshotKeeper:
        """The snapshot's keeper. Raises `StoreUnavailable` before start."""
        if self._keeper is None:
            raise StoreUnavailable
        return self._keeper

    @property
    def router(self) -> Router | None:
        """What chooses workers, once it is there."""
        return self._deps.router if self._deps is not None else None

    @property
    def shadows(self) -> Mapping[str, int]:
        """Count the copies of calls by their fate."""
        return self._deps.shadows.fates if self._deps is not None else {}

    @property
    def deps(self) -> Deps:
        """The pipeline's parts. Raises `StoreUnavailable` until they are there."""
        if self._deps is None:
            raise StoreUnavailable
        return self._deps

    def authenticate(self, headers: Mapping[str, str]) -> Key:
        """Give the key of a request. Raises `Unauthenticated`, or `StoreUnavailable`."""
        return self.authenticate_header(headers.get("authorization"))

    def authenticate_header(self, authorization: str | None) -> Key:
        """Give the key for an `Authorization` header; a store that is away is never a 401."""
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated(
                "You didn't provide an API key: send it as `Authorization: Bearer sk-...`."
            )
        digest = hashlib.sha256(secret.strip().encode("latin-1", "replace")).hexdigest()
        key = self.keeper.snapshot.keys.get(digest)
        if key is None:
            if not self.keeper.store_up:
                raise StoreUnavailable
            raise Unauthenticated
        if key.expires_at is not None and key.expires_at <= time.time():
            raise Unauthenticated("This API key has expired.", code="invalid_api_key")
        return key

    def records(self) -> dict[str, int]:
        """Count the records of this gateway's outbox by their fate."""
        fates = ("waiting", "dropped", "failed", "aside", "shipped")
        return {fate: getattr(self.outbox, fate, 0) for fate in fates}

    async def refresh(self) -> None:
        """Make a change of the registry visible here at once."""
        await self.keeper.refresh()

    @asynccontextmanager
    async def granted(
        self,
        key: Key,
        tokens: int,
        headers: list[Header],
        used: Callable[[], int],
        *,
        takes_room: bool = True,
    ) -> AsyncIterator[None]:
        """Hold a call to its key's limits: so many tokens are reserved, and settled at its end.

        `headers` gets OpenAI's rate-limit headers. A call of no tokens is held to the requests a
        minute and to the calls at once only, and without `takes_room` not to the latter. Raises
        `Overloaded` or `LimitsUnavailable`.
        """
        grant: Grant | None = None
        if takes_room:
            self.parallel.enter(key)
        try:
            if key.limits.any and key.purpose != "evaluation":
                grant = await self.limiter.take(key, tokens)
                headers += grant.headers
            yield
        finally:
            # First of all: who has an answer may call again, while settling waits for Redis.
            if takes_room:
                self.parallel.leave(key)
            if grant is not None:
                await self.limiter.settle(grant, used())

    async def _spent(self, account: int, since: str) -> int:
        """Look up what an account has used. Raises `StoreUnavailable`."""

        def look() -> int:
            return tokens_of(self.database, self.registry.keys_of_account(account), since)

        try:
            return await asyncio.to_thread(look)
        except StoreAway:
            raise StoreUnavailable from None

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a call while it runs. Raises `Overloaded` past the bound.

        Those that wait in the queue are bounded there.
        """
        waiting = len(self._deps.router.queue) if self._deps is not None else 0
        if self.in_flight - waiting >= self.settings.limits.max_in_flight:
            raise Overloaded
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
