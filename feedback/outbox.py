"""The local outbox: records wait here, safe on disk, until they are shipped to the store.

Promise: `put` never waits and never fails a caller; within 100 ms a record survives SIGKILL of any
process (it is committed to a SQLite file in WAL mode), within 1 s it survives loss of power (the
log is synced). A commit every 20 ms carries all that came meanwhile, so that the cost a record is
an insert. Past `bound` waiting records, further ones are dropped and counted. `put_now` is for what
may never be lost: it returns when the record is synced, and knows no bound.

Records leave the file in the shipping process, so what waits there is counted twice a second.
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

from feedback.outbox_file import OutboxFile, OutboxInUse, is_busy

logger = logging.getLogger(__name__)

_COMMIT_EVERY = 0.02
_SYNC_EVERY = 0.5
_AT_ONCE = 250
_LONG_LOG = 64 * 1024 * 1024
"""The shipping process shortens the log as it goes; past so many bytes it seems to be away."""

Records = Sequence[tuple[str, bytes]]


class Outbox:
    """A bounded, durable queue; one file belongs to one gateway.

    One thread commits, and another syncs and counts: a slow disk holds up no commit.
    Raises `OutboxInUse` when another process has the file.
    """

    def __init__(self, path: Path, bound: int = 200_000) -> None:
        self.dropped = 0
        self.failed = 0
        self.shipped = 0
        self._bound = bound
        self._incoming: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self.file = OutboxFile(path, checkpoints=False)
        self._begin = self.file.tally()
        self.aside = self._begin.aside
        self._stored = self._begin.waiting
        self._written = 0
        self._given = self._done = 0
        # Held over a write and the counting of it, so that `_look` never counts a record twice.
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="outbox", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="outbox-sync", daemon=True)
        self._writer.start()
        self._keeper.start()

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
        """Records that are not in the store yet, as of half a second ago."""
        return self._stored + self._given - self._done

    def put(self, record_id: str, payload: bytes) -> bool:
        """Hand a record over; False when the outbox is full and the record was dropped."""
        if self.waiting >= self._bound:
            self.dropped += 1
            return False
        self._given += 1
        self._incoming.put((record_id, payload))
        return True

    def put_now(self, record_id: str, payload: bytes) -> bytes | None:
        """Put a record that may not be lost; returns once it is synced. Blocks: use a thread.

        Where one with this id waits already, it stays, and its payload is returned instead.
        Raises `sqlite3.Error` or `OSError` when the disk does not take it.
        """
        with self._counting:
            before = self.file.put_urgent(record_id, payload)
            self._count(before is None)
        # After the commit, as `synchronous=FULL` does it too, but with the writer let in meanwhile.
        self.file.sync()
        return before

    def close(self) -> None:
        """Write what waits, sync it, end the threads and give the file back."""
        self._incoming.put(None)
        self._writer.join(timeout=10)
        self._closing.set()
        self._keeper.join(timeout=10)
        if not self._writer.is_alive() and not self._keeper.is_alive():
            self.file.close()

    def _count(self, new: int) -> None:
        self._stored += new
        self._written += new

    def _write_all(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            for at in range(0, len(batch), _AT_ONCE):
                self._write(batch[at : at + _AT_ONCE])

    def _next_batch(self) -> tuple[list[tuple[str, bytes]], bool]:
        """Wait for a first record, then gather what comes within one commit interval."""
        item = self._incoming.get()
        if item is None:
            return [], False
        batch = [item]
        time.sleep(_COMMIT_EVERY)
        while True:
            try:
                item = self._incoming.get_nowait()
            except Empty:
                return batch, True
            if item is None:
                return batch, False
            batch.append(item)

    def _write(self, records: Records) -> None:
        """Commit records; a full or failing disk costs them, never the server."""
        while True:
            try:
                with self._counting:
                    self._count(self.file.put(records))
                    self._done += len(records)
                return
            except sqlite3.Error as error:
                if is_busy(error):
                    logger.warning("outbox: another process keeps the file locked")
                    continue
                self.failed += len(records)
                self._done += len(records)
                logger.exception("outbox: %d records could not be written", len(records))
                return

    def _keep(self) -> None:
        """Sync, and look what has left, until closed."""
        synced = 0
        while True:
            closing = self._closing.wait(_SYNC_EVERY)
            written = self._written
            try:
                if written != synced:
                    self.file.sync()
                    synced = written
                self.file.checkpoint(_LONG_LOG)
                self._look()
            except (OSError, sqlite3.Error):
                logger.exception("outbox: the file could not be synced")
            if closing:
                return

    def _look(self) -> None:
        with self._counting:
            now = self.file.tally()
            self._stored = now.waiting
            left = self._begin.waiting + self._written - now.waiting
        self.aside = now.aside
        self.shipped = max(self.shipped, left - (now.aside - self._begin.aside))
