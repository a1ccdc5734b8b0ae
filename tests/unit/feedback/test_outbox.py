"""The outbox: never waits, loses nothing that was killed, drops only past its bound."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feedback.outbox import Outbox
from feedback.outbox_file import OutboxFile, OutboxInUse, leftovers


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
    """Of 100 ms in which it could run: a machine that stands still does so in one sleep."""
    program = (
        "import sys, time; from pathlib import Path; from feedback.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "for n in range(100): outbox.put(str(n), b'payload')\n"
        "for _ in range(20): time.sleep(0.005)\n"
        "print('now', flush=True); time.sleep(30)\n"
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


def test_what_is_put_now_is_there_and_only_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", bound=0)
    assert outbox.put_now("a", b"1") is None
    assert outbox.put_now("a", b"2") == b"1"
    assert outbox.file.find("a") == b"1"
    assert outbox.file.find("b") is None
    assert outbox.file.peek("urgent", 10) == [(1, "a", b"1")]
    assert outbox.waiting == 1
    outbox.close()


def test_put_now_survives_sigkill(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from feedback.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]))\n"
        "outbox.put_now('a', b'1'); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "outbox.db"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    outbox = Outbox(path)
    assert outbox.file.peek("urgent", 10) == [(1, "a", b"1")]
    outbox.close()


def test_records_are_read_in_order_and_forgotten_when_told(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for number in range(5):
        outbox.put(str(number), b"x")
    until(lambda: outbox.waiting == 5)
    until(lambda: len(outbox.file.peek("outbox", 10)) == 5)
    first = outbox.file.peek("outbox", 2)
    assert [record_id for _, record_id, _ in first] == ["0", "1"]
    assert outbox.file.ack("outbox", [seq for seq, _, _ in first]) == 2
    assert outbox.file.ack("outbox", [seq for seq, _, _ in first]) == 0
    (seq, _, _) = outbox.file.peek("outbox", 1)[0]
    assert outbox.file.set_aside("outbox", [seq], "broken") == 1
    assert [record_id for _, record_id, _ in outbox.file.peek("outbox", 9)] == ["3", "4"]
    until(lambda: (outbox.waiting, outbox.shipped, outbox.aside) == (2, 2, 1))
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    assert again.waiting == 2
    again.close()


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "gateway-1.db")
    with pytest.raises(OutboxInUse):
        Outbox(tmp_path / "gateway-1.db")
    other = Outbox.open(tmp_path, "gateway-1")
    assert other.file.path.name == "gateway-1-2.db"
    assert leftovers(outbox.file.path) == []
    other.put_now("a", b"1")
    other.close()
    (left,) = leftovers(outbox.file.path)
    assert left.peek("urgent", 1) == [(1, "a", b"1")]
    assert leftovers(outbox.file.path) == []
    left.ack("urgent", [1])
    left.remove()
    assert [path.name for path in tmp_path.glob("*.db")] == ["gateway-1.db"]
    outbox.close()


def test_a_slow_disk_holds_up_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: int) -> None:
        syncing.set()
        synced.wait(10)

    syncing, synced = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fdatasync", slow)
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.put("first", b"")
    assert syncing.wait(5)
    outbox.put("second", b"")
    until(lambda: len(outbox.file.peek("outbox", 9)) == 2)
    synced.set()
    outbox.close()


def test_a_file_that_another_process_keeps_locked_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.outbox_file._PATIENCE", 0.05)
    outbox = Outbox(tmp_path / "outbox.db")
    other = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert outbox.put("a", b"1")
    with pytest.raises(sqlite3.OperationalError):
        outbox.put_now("b", b"2")
    time.sleep(0.3)
    other.execute("ROLLBACK")
    until(lambda: outbox.file.peek("outbox", 9) == [(1, "a", b"1")])
    until(lambda: (outbox.failed, outbox.waiting) == (0, 1))
    other.close()
    outbox.close()


def test_a_lock_is_shared_with_whoever_inherits_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    shared = OutboxFile(outbox.file.path, os.dup(outbox.file.lock))
    outbox.put("a", b"1")
    outbox.close()
    with pytest.raises(OutboxInUse):
        Outbox(tmp_path / "outbox.db")
    assert shared.peek("outbox", 9) == [(1, "a", b"1")]
    shared.close()
    Outbox(tmp_path / "outbox.db").close()


def test_what_waits_is_counted_about_where_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OutboxFile(tmp_path / "outbox.db")
    file.put([(str(number), b"") for number in range(100)])
    file.ack("outbox", list(range(50, 60)))
    assert (file.tally().waiting, file.count()) == (90, 90)
    monkeypatch.setattr("feedback.outbox_file._COUNTED", 50)
    assert file.tally().waiting == 100
    file.ack("outbox", list(range(1, 101)))
    assert (file.tally().waiting, file.empty()) == (0, True)
    file.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
