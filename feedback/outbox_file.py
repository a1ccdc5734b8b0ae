"""The file behind an outbox: two durable queues in SQLite, owned by one process at a time.

`outbox` holds captures, which may be lost to power within a second; `urgent` holds feedback, whose
write returns only once it is synced. `aside` keeps what cannot be shipped, for a person to look at.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

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


class OutboxInUse(Exception):
    """Another process holds this outbox."""


class OutboxFile:
    """An outbox's file, locked for this process. Every method blocks and may be called anywhere.

    Raises `OutboxInUse` when another process holds it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._lock = threading.Lock()
        self._owned = _owned(path)
        try:
            with closing(self.connect()) as connection:
                connection.executescript(_SCHEMA)
            path.chmod(0o600)
            self._connection = self.connect()
        except BaseException:
            os.close(self._owned)
            raise

    def connect(self) -> sqlite3.Connection:
        """Open a connection of one's own. Its commits survive the process; `sync` the machine."""
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=5
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def count(self) -> int:
        """Give the number of records in both queues."""
        with self._lock:
            (number,) = self._connection.execute(
                "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM urgent)"
            ).fetchone()
        return int(number)

    def peek(self, queue: Queue, limit: int) -> Waiting:
        """Give the oldest records, (sequence number, id, payload), and leave them there."""
        query = f"SELECT seq, id, payload FROM {queue} ORDER BY seq LIMIT ?"  # noqa: S608
        with self._lock:
            return self._connection.execute(query, (limit,)).fetchall()

    def ack(self, queue: Queue, seqs: Sequence[int]) -> int:
        """Forget records that are in the store; gives how many there were."""
        with self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            return _delete(connection, queue, seqs)

    def set_aside(self, queue: Queue, seqs: Sequence[int], reason: str) -> int:
        """Move records that can never be shipped out of the way; gives how many there were."""
        query = f"INSERT INTO aside SELECT id, ?, payload, ?, ? FROM {queue} WHERE seq = ?"  # noqa: S608
        with self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(query, [(queue, reason, time.time(), seq) for seq in seqs])
            return _delete(connection, queue, seqs)

    def put_now(self, record_id: str, payload: bytes) -> bytes | None:
        """Put an urgent record; returns once it is synced to disk.

        Where one with this id waits already, it stays, and its payload is returned instead.
        Raises `sqlite3.Error` or `OSError` when the disk does not take it.
        """
        with self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            done = connection.execute(
                "INSERT OR IGNORE INTO urgent (id, payload) VALUES (?, ?)", (record_id, payload)
            )
            before = None if done.rowcount else _urgent(connection, record_id)
        # After the commit, as `synchronous=FULL` does it too, but with the writer let in meanwhile.
        self.sync()
        return before

    def sync(self) -> None:
        """Sync what has been committed to disk. Raises `OSError`."""
        try:
            log = os.open(self.path.with_name(self.path.name + "-wal"), os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(log)
        finally:
            os.close(log)

    def find(self, record_id: str) -> bytes | None:
        """Give an urgent record that waits, by its id."""
        with self._lock:
            return _urgent(self._connection, record_id)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()
            os.close(self._owned)

    def remove(self) -> None:
        """Delete the file, which must be empty, and give it back."""
        with self._lock:
            (kept,) = self._connection.execute("SELECT count(*) FROM aside").fetchone()
            self._connection.close()
            if not kept:
                for suffix in ("-wal", "-shm", ""):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            os.close(self._owned)


def _owned(path: Path) -> int:
    # A file of its own, never deleted: a lock on a deleted file keeps nobody out.
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise OutboxInUse(f"{path} belongs to another process") from error
    return lock


def _delete(connection: sqlite3.Connection, queue: Queue, seqs: Iterable[int]) -> int:
    cursor = connection.executemany(
        f"DELETE FROM {queue} WHERE seq = ?",  # noqa: S608
        [(seq,) for seq in seqs],
    )
    return cursor.rowcount


def _urgent(connection: sqlite3.Connection, record_id: str) -> bytes | None:
    row = connection.execute("SELECT payload FROM urgent WHERE id = ?", (record_id,)).fetchone()
    return None if row is None else bytes(row[0])


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
