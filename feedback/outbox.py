"""The local outbox: records wait here, safe on disk, until they are shipped to the store.

Promise: `put` never waits and never fails a caller; within 100 ms a record survives SIGKILL of any
process (it is committed to a SQLite file in WAL mode), within 1 s it survives loss of power (the
log is synced). A commit every 20 ms carries all that came meanwhile, so that the cost a record is
an insert. Past `bound` waiting records, further ones are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_COMMIT_EVERY = 0.02
_SYNC_EVERY = 0.5


class Outbox:
    """A bounded, durable queue with one writer thread; one file belongs to one process."""

    def __init__(self, path: Path, bound: int = 200_000) -> None:
        self.dropped = 0
        self.failed = 0
        self._bound = bound
        self._waiting: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._stored = self._prepare()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, record_id: str, payload: bytes) -> bool:
        """Hand a record over; False when the outbox is full and the record was dropped."""
        if self._stored + self._waiting.qsize() >= self._bound:
            self.dropped += 1
            return False
        self._waiting.put((record_id, payload))
        return True

    def close(self) -> None:
        """Write what waits, sync it and end the thread."""
        self._waiting.put(None)
        self._thread.join(timeout=10)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=5000")
        return connection

    def _prepare(self) -> int:
        connection = self._connect()
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS outbox ("
                " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
                " payload BLOB NOT NULL)"
            )
            self._path.chmod(0o600)
            row = connection.execute("SELECT count(*) FROM outbox").fetchone()
            return int(row[0])
        finally:
            connection.close()

    def _run(self) -> None:
        connection = self._connect()
        wal = self._path.with_name(self._path.name + "-wal")
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
                _fsync(wal)
                synced, dirty = now, False
        connection.close()

    def _next_batch(self, patience: float | None) -> tuple[list[tuple[str, bytes]], bool]:
        """Wait for a first record, then gather what comes within one commit interval."""
        try:
            item = self._waiting.get(timeout=patience)
        except queue.Empty:
            return [], True
        if item is None:
            return [], False
        batch = [item]
        time.sleep(_COMMIT_EVERY)
        while True:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
            if item is None:
                return batch, False
            batch.append(item)

    def _write(self, connection: sqlite3.Connection, batch: list[tuple[str, bytes]]) -> None:
        """Commit a batch; a full or failing disk costs the batch, never the server."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR IGNORE INTO outbox (id, payload) VALUES (?, ?)", batch
            )
            connection.execute("COMMIT")
            self._stored += len(batch)
        except sqlite3.Error:
            self.failed += len(batch)
            logger.exception("outbox: %d records could not be written", len(batch))
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _fsync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
