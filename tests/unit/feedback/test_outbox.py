"""The outbox: never waits, loses nothing that was killed, drops only past its bound."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from feedback.outbox import Outbox


def rows(path: Path) -> list[tuple[str, bytes]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT id, payload FROM outbox ORDER BY seq").fetchall()
    finally:
        connection.close()


def test_records_are_there_after_close_in_order_and_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for number in range(50):
        assert outbox.put(f"id-{number}", b"x%d" % number)
    outbox.put("id-0", b"again")
    outbox.close()
    assert rows(tmp_path / "outbox.db") == [(f"id-{n}", b"x%d" % n) for n in range(50)]


def test_past_the_bound_records_are_dropped_and_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", bound=3)
    taken = [outbox.put(str(number), b"") for number in range(5)]
    outbox.close()
    assert taken == [True, True, True, False, False]
    assert outbox.dropped == 2
    reopened = Outbox(tmp_path / "outbox.db", bound=3)
    assert not reopened.put("more", b"")
    reopened.close()


def test_a_record_older_than_100_ms_survives_sigkill(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from feedback.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "for n in range(100): outbox.put(str(n), b'payload')\n"
        "time.sleep(0.1); print('now', flush=True); time.sleep(30)\n"
    )
    path = tmp_path / "outbox.db"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [name for name, _ in rows(path)] == [str(n) for n in range(100)]


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "sub" / "outbox.db")
    outbox.put("a", b"b")
    time.sleep(0.1)
    outbox.close()
    assert (tmp_path / "sub" / "outbox.db").stat().st_mode & 0o777 == 0o600
