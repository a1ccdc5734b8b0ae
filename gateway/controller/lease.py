"""Leadership: one controller acts at a time, by a lease in the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

NAME = "controller"
TTL_S = 10.0
RENEW_S = 3.0


class LeaseStore(Protocol):
    """Where the lease is kept; synchronous, called in threads."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew the lease; False while another holds it."""
        ...

    def release_lease(self, name: str, holder: str) -> bool:
        """Give the lease back."""
        ...


class Leadership:
    """Takes and renews the lease. `held` is true only while the lease cannot have run out."""

    def __init__(
        self,
        store: LeaseStore,
        holder: str,
        *,
        ttl_s: float = TTL_S,
        renew_s: float = RENEW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._holder = holder
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._clock = clock
        self._until = float("-inf")
        self._was_held = False

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        return self._clock() < self._until

    async def renew(self) -> bool:
        """Try once to take or renew the lease; a store that cannot be reached changes nothing."""
        asked = self._clock()  # counted from before the question: the store's clock starts later
        try:
            got = await asyncio.to_thread(
                self._store.acquire_lease, NAME, self._holder, self._ttl_s
            )
        except Exception as error:
            logger.debug("the lease cannot be renewed: %s", error)
        else:
            self._until = asked + self._ttl_s if got else float("-inf")
        if self.held != self._was_held:
            self._was_held = self.held
            logger.info("controller %s %s", self._holder, "leads" if self.held else "stands by")
        return self.held

    async def run(self) -> None:
        """Renew until cancelled, then give the lease back, so that another takes over at once."""
        try:
            while True:
                await self.renew()
                await asyncio.sleep(self._renew_s)
        finally:
            if self.held:
                self._until = float("-inf")
                await self._release()

    async def _release(self) -> None:
        try:
            await asyncio.to_thread(self._store.release_lease, NAME, self._holder)
        except Exception as error:
            logger.debug("the lease cannot be given back: %s", error)
