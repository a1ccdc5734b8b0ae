from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from supervisor.options import ServerOptions

from deploy import processes
from deploy.home import Home
from deploy.processes import MARK, ROLE
from deploy.supervisor import Program, Supervisor, clear, render, states, tail

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / 'a home, with 100% of "everything"')
    home.create()
    return home


def environment() -> dict[str, str]:
    return dict(os.environ)


def until(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_supervisord_reads_what_is_rendered(home: Home) -> None:
    path = home.run / "supervisord.conf"
    worker = Program("worker", ["/a b/python", "-c", 'print("100%")'], 10, 7)
    path.write_text(render(home, [worker]), encoding="utf-8")
    options = ServerOptions()
    options.realize(["-c", str(path)])
    (group,) = options.process_group_configs
    (program,) = group.process_configs
    assert program.command == '"/a b/python" "-c" "print(\\"100%\\")"'
    assert program.environment[ROLE] == "worker"
    assert program.stdout_logfile == str(home.logs / "worker.log")
    assert (program.stopwaitsecs, program.killasgroup, program.stopasgroup) == (7, True, True)
    (server,) = options.server_configs
    assert (server["file"], server["chmod"]) == (str(home.socket("supervisor")), 0o700)


def test_no_port_is_opened(home: Home) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(render(home, []))
    assert "inet_http_server" not in parser


def test_programs_run_restart_and_stop(home: Home) -> None:
    supervisor = Supervisor.start(home, [Program("one", SLEEP, 10)], environment())
    try:
        until(lambda: [s.pid for s in supervisor.states() if s.pid])
        first = supervisor.states()[0].pid
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.states()[0].pid not in (0, first))
        # Between fork and exec it is the supervisor still.
        until(lambda: {p.environ()[ROLE] for p in processes.find(home, "one")} == {"one"})
    finally:
        assert supervisor.stop()
    assert processes.find(home) == []
    assert states(home) == []


def test_what_a_program_leaves_behind_is_ended(home: Home) -> None:
    code = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True); time.sleep(60)"
    )
    program = Program("one", [sys.executable, "-c", code], 10)
    supervisor = Supervisor.start(home, [program], environment())
    until(lambda: len(processes.find(home, "one")) == 2)
    assert not supervisor.stop()
    assert processes.find(home) == []


def test_when_the_starter_is_killed_nothing_stays(home: Home) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from deploy.home import Home
from deploy.supervisor import Program, Supervisor
home = Home(Path({str(home.root)!r}))
Supervisor.start(home, [Program("one", {SLEEP!r}, 10)], dict(os.environ))
time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: processes.find(home, "one"))
    finally:
        starter.kill()
        starter.wait()
    until(lambda: not processes.find(home))


def test_a_process_of_another_home_is_not_ours(home: Home, tmp_path: Path) -> None:
    marked = environment() | {MARK: str(home.root)}
    process = subprocess.Popen(SLEEP, env=marked)
    try:
        assert [p.pid for p in processes.find(home)] == [process.pid]
        assert processes.find(Home(tmp_path / "other")) == []
        assert not clear(home)
        assert not psutil.pid_exists(process.pid)
        process.wait()
    finally:
        process.kill()


def test_what_ignores_the_request_is_killed() -> None:
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN)"
    code = f"{ignore}; print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    processes.stop([psutil.Process(process.pid)], patience_s=0.2)
    assert not psutil.pid_exists(process.pid)
    process.wait()
    process.stdout.close()


def test_a_tied_process_ends_with_its_parent(tmp_path: Path) -> None:
    child = (
        "import os, time; from deploy.processes import die_with_parent as d; d();"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout
    tied = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()
    tied.wait(5)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert tail(log) == "(no log)"
    log.write_text("".join(f"line {n}\n" for n in range(5000)), encoding="utf-8")
    assert tail(log, 2) == "line 4998\nline 4999"
