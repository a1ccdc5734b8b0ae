"""Keeps the snapshot fresh, and tells the controller what this gateway holds and does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from gateway.errors import StoreUnavailable
from gateway.registry.service import Registry
from gateway.registry.snapshot import Snapshot
from gateway.serving.router import Router

logger = logging.getLogger(__name__)

_POLL = 0.5
_SOON = 0.1
_APART = 0.02
"""Seconds from one reading to the next at least: each costs the store a heartbeat, too."""
_LOOK_S = 0.02
LEAVE_S = 2.0
"""For the last calls to end, and for the registry to be told, when the gateway stops."""


class SnapshotKeeper:
    """Reads the registry's revision twice a second or when told to, and what has changed.

    While calls wait for an adapter it does so ten times a second: the controller must learn of
    them, and they of what it did.
    """

    def __init__(self, registry: Registry, router: Router, gateway_id: str) -> None:
        self.secret: bytes | None = None
        self.store_up = False
        self._registry = registry
        self._router = router
        self._id = gateway_id
        self._lock = asyncio.Lock()
        self._answered = asyncio.Event()
        self._told = asyncio.Event()
        self._beating = asyncio.Lock()
        self._left = False
        router.when_hungry(self.wake)

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot. Raises `StoreUnavailable` while there never was one."""
        snapshot = self._router.snapshot
        if snapshot is None:
            raise StoreUnavailable
        return snapshot

    async def first_secret(self) -> bytes:
        """Wait for the store's first answer, and give the secret that ids are signed with."""
        await self._answered.wait()
        return self.secret or b""

    async def refresh(self) -> None:
        """Look now, for a change that this gateway itself has made."""
        async with self._lock:
            if self.secret is None:
                self.secret = await asyncio.to_thread(self._registry.secret)
            revision = await asyncio.to_thread(self._registry.revision)
            held = self._router.snapshot
            if held is None or held.revision != revision:
                self._router.update(await asyncio.to_thread(self._registry.snapshot, held))
            self._answered.set()

    async def run(self) -> None:
        """Keep going until cancelled; a store that is away is reported once."""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self.refresh()
                await self._beat()
                if not self.store_up:
                    logger.info("the store answers")
                self.store_up = True
            except Exception as error:
                if self.store_up or self._router.snapshot is None:
                    logger.warning("the store does not answer: %s", error)
                self.store_up = False
            await self._pause(began)

    def wake(self) -> None:
        """Have the registry read now: something has changed, or is needed."""
        self._told.set()

    async def _pause(self, began: float) -> None:
        """Wait until it is time, or until told; a thousand misses make no thousand readings."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON if self._router.hungry else _POLL):
                await self._told.wait()
        await asyncio.sleep(began + _APART - asyncio.get_running_loop().time())
        self._told.clear()

    async def leave(self) -> None:
        """Take this gateway out of the live ones, so that no unload waits for it any more.

        To be called while `run` goes on, when no more calls come. Where the last ones do not end in
        time, or the store is away, it counts as live until its last heartbeat is old.
        """
        try:
            async with asyncio.timeout(LEAVE_S):
                while self._router.busy():  # noqa: ASYNC110 (calls end in tasks of the server)
                    await asyncio.sleep(_LOOK_S)
                async with self._beating:  # one that is under way would bring it back
                    self._left = True
                    await asyncio.to_thread(self._registry.remove_gateway, self._id)
        except Exception as error:
            logger.warning("other processes take this gateway for live yet: %r", error)

    async def _beat(self) -> None:
        async with self._beating:
            if self._left:
                return
            revision = self.snapshot.revision
            self._router.note_calls()
            busy = self._router.busy()
            with self._router.uses.telling() as used:
                beat = self._registry.heartbeat
                await asyncio.to_thread(beat, self._id, revision, busy, used=used)
