"""The shipping process of a gateway: it comes back, and it ends with the gateway."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.acceptance.live import wait_for

from .conftest import MakeStack
from .stack import Stack
from .test_feedback_api import answered, held, known, rows


def shippers(stack: Stack) -> list[int]:
    """The shipping processes that work on the stack's outbox, zombies and orphans included."""
    lock = stack.home / "outbox" / f".gateway-{stack.port}.db.lock"
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if b"gateway.shipping" not in (folder / "cmdline").read_bytes():
                continue
            held = [os.readlink(link) for link in (folder / "fd").iterdir()]  # noqa: PTH115
        except OSError:
            continue
        if str(lock) in held:
            found.append(int(folder.name))
    return found


def zombies(stack: Stack) -> list[int]:
    """The gateway's children that have ended and were not waited for."""
    pid = stack.gateway.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    ]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_killed_one_is_started_again(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    with stack.live.http() as http:
        for _ in range(3):
            (pid,) = wait_for(lambda: shippers(stack), 30)
            ids = [answered(http) for _ in range(5)]
            os.kill(pid, signal.SIGKILL)
            ids += [answered(http) for _ in range(5)]
            for response_id in ids:
                known(http, response_id)
            assert gone(pid)
            assert zombies(stack) == []
        waiting = 'adapterloop_outbox{fate="waiting"} 0.0'
        assert wait_for(lambda: waiting in http.get("/metrics").text, 20)
        (calls,) = rows(stack, "SELECT count(*) FROM captures")[0]
        shipped = f'adapterloop_outbox{{fate="shipped"}} {calls}.0'
        assert wait_for(lambda: shipped in http.get("/metrics").text, 5)


def test_signals_for_the_whole_group_leave_the_last_records_to_be_shipped(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    (pid,) = wait_for(lambda: shippers(stack), 30)
    with stack.live.http() as http:
        known(http, answered(http))
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        ids = {answered(http) for _ in range(20)}
    stack.gateway.stop()
    assert gone(pid)
    assert ids <= {name for (name,) in rows(stack, "SELECT id FROM captures")}


def test_an_orphan_ships_what_is_left_and_ends(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    (pid,) = wait_for(lambda: shippers(stack), 30)
    with stack.live.http() as http:
        ids = {answered(http) for _ in range(20)}
    assert stack.kept(ids)
    stack.gateway.stop(how=signal.SIGKILL)
    assert wait_for(lambda: gone(pid), 30)
    assert ids <= {name for (name,) in rows(stack, "SELECT id FROM captures")}


def test_a_new_gateway_beside_an_orphan_takes_another_file(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.publish("support", stack.source("support-1", seed=1))
    (pid,) = wait_for(lambda: shippers(stack), 30)
    with stack.live.http() as http:
        known(http, answered(http))
        with held(stack):
            ids = [answered(http) for _ in range(5)]
            assert stack.kept(ids)
            # An orphan gives up within ten seconds, and a gateway may take longer to start.
            os.kill(pid, signal.SIGSTOP)
            try:
                stack.gateway.stop(how=signal.SIGKILL)
                stack.gateway.start()
                other = stack.home / "outbox" / f"gateway-{stack.port}-2.db"
                assert wait_for(other.exists, 60)
            finally:
                os.kill(pid, signal.SIGCONT)
    stack.wait_ready()
    assert wait_for(lambda: gone(pid), 30)
    with stack.live.http() as http:
        ids += [answered(http) for _ in range(5)]
        deadline = time.monotonic() + 45
        while ids and time.monotonic() < deadline:
            ids = [name for name in ids if http.get(f"/v1/feedback/{name}").status_code != 200]
        for response_id in ids:
            known(http, response_id)
    stack.gateway.stop()
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
