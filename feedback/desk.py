"""Where feedback is handed in: it goes to the store, or waits, synced, in the outbox."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import sqlite3
import time

import msgspec

from feedback.errors import Conflicting, FinderAway, StoreAway
from feedback.opening import Unreadable, open_feedback, scrubbed_feedback
from feedback.outbox import Outbox
from feedback.scrub import Scrubber
from feedback.sealing import Seal
from feedback.store import Answered, FeedbackStore
from feedback.types import Feedback

logger = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds that the store may take before feedback goes to the outbox instead."""
_DARK = 1.0
"""Seconds after a failure during which the store is not asked."""

_encode = msgspec.json.Encoder().encode
_CONFLICT = "This Idempotency-Key was used before, with another body."


def feedback_id(key: bytes, tenant: str, key_id: int, idempotency_key: str | None) -> str:
    """Make the id of feedback; with an idempotency key it is always the same one."""
    if idempotency_key is None:
        return f"fb-{secrets.token_hex(16)}"
    text = f"{tenant}\0{key_id}\0{idempotency_key}".encode()
    return "fb-" + hashlib.blake2b(text, key=key, person=b"feedback", digest_size=16).hexdigest()


class Desk:
    """Takes feedback on answers and tells what is known of them."""

    def __init__(
        self, store: FeedbackStore, outbox: Outbox, scrubber: Scrubber, seal: Seal
    ) -> None:
        self._store = store
        self._outbox = outbox
        self.scrubber = scrubber
        self._seal = seal
        self._dark_until = 0.0

    async def submit(self, feedback: Feedback) -> Feedback:
        """Keep feedback; what is returned says what to reply.

        When this returns, the feedback is in the store or synced to the outbox. The same id and
        body again is replied the same. Raises `Conflicting` for the same id with another body, and
        `StoreAway` when neither store nor outbox takes it.
        """
        if feedback.idempotency_key is not None:
            waiting = await asyncio.to_thread(self._outbox.file.find, feedback.id)
            if waiting is not None:
                return self._same(feedback, waiting)
        if time.monotonic() >= self._dark_until:
            try:
                async with asyncio.timeout(_PATIENCE):
                    (clean,) = await scrubbed_feedback(self.scrubber, [feedback])
                    status = await asyncio.to_thread(self._store.submit, clean)
                return msgspec.structs.replace(feedback, replied=status)
            except (StoreAway, FinderAway, TimeoutError):
                self._dark_until = time.monotonic() + _DARK
        return await self._put_now(feedback)

    async def alias_of(self, tenant: str, response_id: str) -> str | None:
        """Tell which alias was called for an answer; None where that is not known by now."""
        if time.monotonic() < self._dark_until:
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                known = await self.look_up(tenant, response_id)
        except (StoreAway, TimeoutError):
            self._dark_until = time.monotonic() + _DARK
            return None
        return str(known.capture["alias"]) if known.capture is not None else None

    async def look_up(self, tenant: str, response_id: str) -> Answered:
        """Tell what is known of an answer. Raises `StoreAway`."""
        return await asyncio.to_thread(self._store.look_up, tenant, response_id)

    async def _put_now(self, feedback: Feedback) -> Feedback:
        sealed = self._seal.seal(_encode(feedback))
        try:
            before = await asyncio.to_thread(self._outbox.put_now, feedback.id, sealed)
        except (sqlite3.Error, OSError) as error:
            logger.exception("feedback could not be put into the outbox")
            raise StoreAway("Feedback cannot be kept right now: try again shortly.") from error
        return feedback if before is None else self._same(feedback, before)

    def _same(self, feedback: Feedback, payload: bytes) -> Feedback:
        try:
            before = open_feedback(self._seal, payload)
        except Unreadable as error:
            raise Conflicting(_CONFLICT) from error
        if before.body_sha256 != feedback.body_sha256:
            raise Conflicting(_CONFLICT)
        return before
