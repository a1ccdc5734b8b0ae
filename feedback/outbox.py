"""The local outbox: records wait here, safe on disk, until they are shipped to the store.

Promise: `put` never waits and never fails a caller; within 100 ms a record survives SIGKILL of any
process (it is committed to a SQLite file in WAL mode), within 1 s it survives loss of power (the
log is synced). A commit every 20 ms carries all that came meanwhile, so that the cost a record is
an insert. Past `bound` waiting records, further ones are dropped and counted. `put_now` is for what
may never be lost: it returns when the record is synced, and knows no bound.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from feedback.outbox_file import OutboxFile, OutboxInUse, Queue, Waiting

logger = logging.getLogger(__name__)

_COMMIT_EVERY = 0.02
_SYNC_EVERY = 0.5


class Outbox:
    """A bounded, durable queue with one writer thread; one file belongs to one process.

    Raises `OutboxInUse` when another process has the file.
    """

    def __init__(self, path: Path, bound: int = 200_000) -> None:
        self.dropped = 0
        self.failed = 0
        self.aside = 0
        self._bound = bound
        self._incoming: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self.file = OutboxFile(path)
        self._counting = threading.Lock()
        self._stored = self.file.count()
        self._in_hand = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, folder: Path, name: str, bound: int = 200_000) -> Self:
        """Open `name`.db in a folder, or `name`-2.db and so on while another process has it."""
        number = 1
        while True:
            stem = name if number == 1 else f"{name}-{number}"
            try:
                return cls(folder / f"{stem}.db", bound)
            except OutboxInUse:
                number += 1

    @property
    def waiting(self) -> int:
        """Records that are not in the store yet."""
        return self._stored + self._incoming.qsize() + self._in_hand

    def put(self, record_id: str, payload: bytes) -> bool:
        """Hand a record over; False when the outbox is full and the record was dropped."""
        if self.waiting >= self._bound:
            self.dropped += 1
            return False
        self._incoming.put((record_id, payload))
        return True

    def put_now(self, record_id: str, payload: bytes) -> bytes | None:
        """Put a record that may not be lost; returns once it is synced. Blocks: use a thread.

        Where one with this id waits already, it stays, and its payload is returned instead.
        Raises `sqlite3.Error` or `OSError` when the disk does not take it.
        """
        before = self.file.put_now(record_id, payload)
        if before is None:
            self._count(1)
        return before

    def peek(self, queue: Queue, limit: int) -> Waiting:
        """Give the oldest records of a queue, and leave them there. Blocks: use a thread."""
        return self.file.peek(queue, limit)

    def ack(self, queue: Queue, seqs: Sequence[int]) -> int:
        """Forget records that are in the store. Blocks: use a thread."""
        gone = self.file.ack(queue, seqs)
        self._count(-gone)
        return gone

    def set_aside(self, queue: Queue, seqs: Sequence[int], reason: str) -> int:
        """Move records that can never be shipped out of the way. Blocks: use a thread."""
        moved = self.file.set_aside(queue, seqs, reason)
        self.aside += moved
        self._count(-moved)
        return moved

    def close(self) -> None:
        """Write what waits, sync it, end the thread and give the file back."""
        self._incoming.put(None)
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self.file.close()

    def _count(self, change: int) -> None:
        with self._counting:
            self._stored += change

    def _run(self) -> None:
        connection = self.file.connect()
        synced = time.monotonic()
        dirty = False
        open_ = True
        while open_:
            batch, open_ = self._next_batch(None if not dirty else _SYNC_EVERY)
            if batch:
                self._write(connection, batch)
                dirty = True
            now = time.monotonic()
            if dirty and (now - synced >= _SYNC_EVERY or not open_):
                self._sync()
                synced, dirty = now, False
        connection.close()

    def _sync(self) -> None:
        try:
            self.file.sync()
        except OSError:
            logger.exception("outbox: the disk could not be synced")

    def _next_batch(self, patience: float | None) -> tuple[list[tuple[str, bytes]], bool]:
        """Wait for a first record, then gather what comes within one commit interval."""
        try:
            item = self._incoming.get(timeout=patience)
        except Empty:
            return [], True
        if item is None:
            return [], False
        batch = [item]
        self._in_hand = 1
        time.sleep(_COMMIT_EVERY)
        while True:
            try:
                item = self._incoming.get_nowait()
            except Empty:
                return batch, True
            if item is None:
                return batch, False
            batch.append(item)
            self._in_hand += 1

    def _write(self, connection: sqlite3.Connection, batch: list[tuple[str, bytes]]) -> None:
        """Commit a batch; a full or failing disk costs the batch, never the server."""
        before = connection.total_changes
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR IGNORE INTO outbox (id, payload) VALUES (?, ?)", batch
            )
            connection.execute("COMMIT")
            self._count(connection.total_changes - before)
        except sqlite3.Error:
            self.failed += len(batch)
            logger.exception("outbox: %d records could not be written", len(batch))
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        finally:
            self._in_hand = 0
