"""Carries records from the outbox to the store, each exactly once by its id.

Captures are unsealed, scrubbed and kept in one transaction for a batch, uses counted in another,
and only then are they forgotten here: killed in between, the next start ships them again and the
store knows their ids. While the store or the guards are away, the outbox keeps everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from feedback.errors import FinderAway, StoreAway
from feedback.opening import (
    Unreadable,
    open_call,
    open_feedback,
    pair_values,
    scrubbed_captures,
    scrubbed_feedback,
)
from feedback.outbox_file import OutboxFile, Queue, Waiting, leftovers
from feedback.scrub import Scrubber
from feedback.sealing import Seal
from feedback.store import FeedbackStore
from feedback.types import Capture, ShadowPair, Use

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 100
_EVERY = 0.25
_LINK_EVERY = 5.0
_ADOPT_EVERY = 30.0
_MAX_BACKOFF = 5.0
_DRAIN = 10.0
_AWAY = 2.0
"""Seconds for which the last round tries to reach a store or guards that are away."""
_TRIES = 5
"""Rounds in which a record may fail while others pass, before it is set aside."""


class Shipper:
    """Ships until it is told to stop, then empties the outbox for ten seconds at most."""

    def __init__(
        self, own: OutboxFile, store: FeedbackStore, scrubber: Scrubber, seal: Seal
    ) -> None:
        self.shipped = 0
        self.away: str | None = None
        self._own = own
        self._store = store
        self._scrubber = scrubber
        self._seal = seal
        self._stop = asyncio.Event()
        self._strikes: Counter[str] = Counter()

    def stop(self) -> None:
        """Let `run` empty the outbox and end."""
        self._stop.set()

    async def run(self) -> None:
        """Ship until `stop`; never raises for what the store or the guards do."""
        loop = asyncio.get_running_loop()
        backoff = _EVERY
        link_at = adopt_at = loop.time()
        while not self._stop.is_set():
            waiting = await self._anything()
            if waiting:
                shipped = await self._guarded(lambda: self._round(self._own))
                backoff = min(_MAX_BACKOFF, backoff * 2) if self.away else _EVERY
                if shipped >= _BATCH:
                    continue
            held_up = waiting and self.away
            if not held_up and loop.time() >= link_at:
                await self._guarded(lambda: asyncio.to_thread(self._store.link))
                link_at = loop.time() + _LINK_EVERY
            if not held_up and loop.time() >= adopt_at:
                await self._guarded(self._adopt)
                adopt_at = loop.time() + _ADOPT_EVERY
            await self._pause(backoff)
        await self._drain()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    async def _drain(self) -> None:
        """Empty the outbox as far as ten seconds and the store allow; the rest stays on disk."""
        loop = asyncio.get_running_loop()
        started, deadline = loop.time(), loop.time() + _DRAIN
        while await self._anything() and loop.time() < deadline:
            if self.away and loop.time() > started + _AWAY:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    shipped = await self._guarded(lambda: self._round(self._own))
            except TimeoutError:
                break
            if not shipped:
                await asyncio.sleep(0.05)
        if left := await asyncio.to_thread(self._own.count):
            logger.warning("%d records wait in the outbox for the next start", left)

    async def _anything(self) -> bool:
        try:
            return not await asyncio.to_thread(self._own.empty)
        except sqlite3.Error:
            return True  # and the round that follows tells what is wrong

    async def _guarded(self, work: Callable[[], Awaitable[int]]) -> int:
        """Do something that may fail; tells a change between here and away once."""
        try:
            done = await work()
        except (StoreAway, FinderAway) as error:
            self._note(error.message)
            return 0
        except Exception as error:
            logger.exception("shipping failed")
            self._note(str(error) or type(error).__name__)
            return 0
        self._note(None)
        return done

    def _note(self, away: str | None) -> None:
        if away is not None and self.away is None:
            logger.warning("records stay in the outbox: %s", away)
        elif away is None and self.away is not None:
            logger.info("records are shipped again")
        self.away = away

    async def _adopt(self) -> int:
        """Ship what processes that are gone have left."""
        done = 0
        files = await asyncio.to_thread(leftovers, self._own.path)
        try:
            while files:
                file = files[-1]
                logger.info("shipping what is left in %s", file.path.name)
                while shipped := await self._round(file):
                    done += shipped
                await asyncio.to_thread(_put_away, files.pop())
        finally:
            for file in files:
                file.close()
        return done

    async def _round(self, source: OutboxFile) -> int:
        """Ship one batch of each queue; gives how many records have left the source."""
        captures = await self._ship(source, "outbox", open_call, self._keep)
        return captures + await self._ship(source, "urgent", open_feedback, self._take)

    async def _keep(self, calls: Sequence[Capture | Use | ShadowPair]) -> None:
        uses = [call for call in calls if isinstance(call, Use)]
        if uses:
            await asyncio.to_thread(self._store.count, uses)
        pairs = [call for call in calls if isinstance(call, ShadowPair)]
        if pairs:
            values = [pair_values(self._scrubber, pair) for pair in pairs]
            await asyncio.to_thread(self._store.keep_pairs, values)
        captures = [call for call in calls if isinstance(call, Capture)]
        if captures:
            rows = await scrubbed_captures(self._scrubber, captures)
            await asyncio.to_thread(self._store.keep, rows)

    async def _take(self, several: Sequence[Any]) -> None:
        clean = await scrubbed_feedback(self._scrubber, several)
        await asyncio.to_thread(self._store.take, clean)

    async def _ship(
        self,
        source: OutboxFile,
        queue: Queue,
        read: Callable[[Seal, bytes], T],
        deliver: Callable[[Sequence[T]], Awaitable[None]],
    ) -> int:
        waiting = await asyncio.to_thread(source.peek, queue, _BATCH)
        if not waiting:
            return 0
        values, broken = await asyncio.to_thread(_read_all, self._seal, waiting, read)
        gone = 0
        if broken:
            logger.error("%d records cannot be read and are set aside", len(broken))
            gone += await asyncio.to_thread(source.set_aside, queue, broken, "unreadable")
        if values:
            try:
                await deliver([value for _, value in values])
                done = [seq for seq, _ in values]
            except StoreAway:
                raise
            except Exception as error:
                done = await self._one_by_one(source, queue, values, deliver, error)
            gone += await asyncio.to_thread(source.ack, queue, done)
            self.shipped += len(done)
        return gone

    async def _one_by_one(
        self,
        source: OutboxFile,
        queue: Queue,
        values: Sequence[tuple[int, T]],
        deliver: Callable[[Sequence[T]], Awaitable[None]],
        first: Exception,
    ) -> list[int]:
        """Find the record that a batch failed for: it must not hold up the others.

        Raises the first error again where none can be delivered. A record is set aside when it has
        failed time and again while others went through.
        """
        done: list[int] = []
        failed: list[tuple[int, Exception]] = []
        # In any order: as many that fail in a row would otherwise hold up all behind them for ever.
        for seq, value in random.sample(values, len(values)):
            if len(failed) >= _TRIES and not done:
                raise first
            try:
                await deliver([value])
                done.append(seq)
            except StoreAway:
                break
            except Exception as error:
                failed.append((seq, error))
        if not done:
            raise first
        for seq, reason in failed:
            name = f"{queue}-{seq}"
            self._strikes[name] += 1
            if self._strikes[name] >= _TRIES:
                logger.error("a record is set aside: %r", reason)
                del self._strikes[name]
                await asyncio.to_thread(source.set_aside, queue, [seq], repr(reason))
        return done


def _read_all(
    seal: Seal, waiting: Waiting, read: Callable[[Seal, bytes], T]
) -> tuple[list[tuple[int, T]], list[int]]:
    values: list[tuple[int, T]] = []
    broken: list[int] = []
    for seq, _, payload in waiting:
        try:
            values.append((seq, read(seal, payload)))
        except Unreadable:
            broken.append(seq)
    return values, broken


def _put_away(file: OutboxFile) -> None:
    if file.count():
        file.close()
    else:
        file.remove()
