"""The file behind an outbox: two durable queues in SQLite, owned by one gateway at a time.

`outbox` holds captures, which may be lost to power within a second; `urgent` holds feedback, whose
write returns only once it is synced. `aside` keeps what cannot be shipped, for a person to look at.

A gateway writes, and its shipping process reads and forgets. So that neither keeps the other out
for long, a write is one statement, which is a transaction of its own: between its begin and its
commit no Python runs.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

Queue = Literal["outbox", "urgent"]
Waiting = list[tuple[int, str, bytes]]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS urgent (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS aside (
    id TEXT NOT NULL, queue TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL,
    at REAL NOT NULL);
"""


_QUEUES: tuple[Queue, ...] = ("outbox", "urgent")
_PATIENCE = 5.0
"""Seconds that another process may keep the file locked."""
_POLL = 0.001
# SQLite itself waits longer from try to try, up to 100 ms, and would wait on an unlocked file.
_CHECKPOINT_PAGES = 4000
_COUNTED = 10_000


class OutboxInUse(Exception):
    """Another process holds this outbox."""


class Tally(NamedTuple):
    """How many records wait, and how many were set aside."""

    waiting: int
    aside: int


class OutboxFile:
    """An outbox's file, locked for this process. Every method blocks and may be called anywhere.

    `lock` is the descriptor of its lock where that was inherited: then the file is shared with the
    process that it came from, and stays locked until both have closed it. Commits survive the
    process; `sync` makes them survive the machine. Without `checkpoints`, no write is held up by
    the log's way into the file, and somebody must call `checkpoint`.

    Raises `OutboxInUse` when another process holds it.
    """

    def __init__(self, path: Path, lock: int | None = None, *, checkpoints: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self.lock = _owned(path) if lock is None else lock
        self._lock = threading.Lock()
        try:
            with closing(self._connect()) as connection:
                if lock is None:
                    connection.executescript(_SCHEMA)
            path.chmod(0o600)
            self._connection = self._connect()
            pages = _CHECKPOINT_PAGES if checkpoints else 0
            self._connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
            self._connection.execute("PRAGMA busy_timeout=0")
        except BaseException:
            os.close(self.lock)
            raise

    def count(self) -> int:
        """Give the number of records in both queues."""
        with self._lock:
            (number,) = self._connection.execute(
                "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM urgent)"
            ).fetchone()
        return int(number)

    def tally(self) -> Tally:
        """Count what waits and what was set aside; cheap, and past some thousands only about."""
        with self._lock:
            waiting = sum(self._about(queue) for queue in _QUEUES)
            (aside,) = self._execute("SELECT count(*) FROM aside").fetchone()
        return Tally(waiting, int(aside))

    def empty(self) -> bool:
        """Tell whether nothing waits."""
        query = "SELECT EXISTS (SELECT 1 FROM outbox) OR EXISTS (SELECT 1 FROM urgent)"
        with self._lock:
            (some,) = self._execute(query).fetchone()
        return not some

    def peek(self, queue: Queue, limit: int) -> Waiting:
        """Give the oldest records, (sequence number, id, payload), and leave them there."""
        query = f"SELECT seq, id, payload FROM {queue} ORDER BY seq LIMIT ?"  # noqa: S608
        with self._lock:
            return self._execute(query, (limit,)).fetchall()

    def put(self, records: Sequence[tuple[str, bytes]]) -> int:
        """Put captures, some hundreds at most, each once by its id; gives how many were new.

        Raises `sqlite3.Error`; `is_busy` tells where the same again may help.
        """
        rows = ",".join(["(?, ?)"] * len(records))
        query = f"INSERT OR IGNORE INTO outbox (id, payload) VALUES {rows}"  # noqa: S608
        with self._lock:
            return self._execute(query, [value for one in records for value in one]).rowcount

    def put_urgent(self, record_id: str, payload: bytes) -> bytes | None:
        """Put an urgent record; it is safe after the next `sync`.

        Where one with this id waits already, it stays, and its payload is returned instead.
        Raises `sqlite3.Error`.
        """
        query = "INSERT OR IGNORE INTO urgent (id, payload) VALUES (?, ?)"
        while True:
            with self._lock:
                if self._execute(query, (record_id, payload)).rowcount:
                    return None
                # Shipped in between? Then it is put again, and the store knows its id.
                if (before := self._urgent(record_id)) is not None:
                    return before

    def ack(self, queue: Queue, seqs: Sequence[int]) -> int:
        """Forget records that are in the store; gives how many there were."""
        query = f"DELETE FROM {queue} WHERE seq IN ({_places(seqs)})"  # noqa: S608
        with self._lock:
            return self._execute(query, seqs).rowcount

    def set_aside(self, queue: Queue, seqs: Sequence[int], reason: str) -> int:
        """Move records that can never be shipped out of the way; gives how many there were."""
        which = f"FROM {queue} WHERE seq IN ({_places(seqs)})"
        move = f"INSERT INTO aside SELECT id, ?, payload, ?, ? {which}"
        with self._lock, self._connection as connection:
            self._execute("BEGIN IMMEDIATE")
            connection.execute(move, (queue, reason, time.time(), *seqs))
            return connection.execute(f"DELETE {which}", seqs).rowcount

    def sync(self) -> None:
        """Sync what has been committed to disk. Raises `OSError`."""
        try:
            log = os.open(self._log, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(log)
        finally:
            os.close(log)

    def checkpoint(self, past: int) -> None:
        """Bring the log into the file where it is longer than `past` bytes; writers go on."""
        try:
            size = self._log.stat().st_size
        except FileNotFoundError:
            return
        if size > past:
            with closing(self._connect()) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def find(self, record_id: str) -> bytes | None:
        """Give an urgent record that waits, by its id."""
        with self._lock:
            return self._urgent(record_id)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()
            os.close(self.lock)

    def remove(self) -> None:
        """Delete the file, which must be empty, and give it back."""
        with self._lock:
            (kept,) = self._connection.execute("SELECT count(*) FROM aside").fetchone()
            self._connection.close()
            if not kept:
                for suffix in ("-wal", "-shm", ""):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            os.close(self.lock)

    @property
    def _log(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=_PATIENCE
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._connection.execute(query, values)
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL)

    def _about(self, queue: Queue) -> int:
        ends = f"(SELECT max(seq) FROM {queue}) - (SELECT min(seq) FROM {queue}) + 1"  # noqa: S608
        (span,) = self._execute(f"SELECT coalesce({ends}, 0)").fetchone()
        if span <= _COUNTED:
            (span,) = self._execute(f"SELECT count(*) FROM {queue}").fetchone()  # noqa: S608
        return int(span)

    def _urgent(self, record_id: str) -> bytes | None:
        row = self._execute("SELECT payload FROM urgent WHERE id = ?", (record_id,)).fetchone()
        return None if row is None else bytes(row[0])


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection was in the way, and nothing else."""
    # Its lower byte is the error's kind, the rest tells details.
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _owned(path: Path) -> int:
    # A file of its own, never deleted: a lock on a deleted file keeps nobody out.
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise OutboxInUse(f"{path} belongs to another process") from error
    return lock


def _places(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def leftovers(own: Path) -> list[OutboxFile]:
    """Take over the outboxes beside one's own whose processes are gone; empty ones are deleted."""
    taken = []
    for path in sorted(own.parent.glob("*.db")):
        if path == own:
            continue
        try:
            file = OutboxFile(path)
        except (OutboxInUse, sqlite3.Error):
            continue
        if file.count():
            taken.append(file)
        else:
            file.remove()
    return taken
