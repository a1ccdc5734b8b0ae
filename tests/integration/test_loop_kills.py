"""SIGKILL of gateway, controller, trainer and worker at random moments, under load."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest

from tests.acceptance.live import wait_for

from .conftest import MakeStack
from .lateness import Lateness
from .stack import Process, Stack

ROUNDS = int(os.environ.get("ADAPTERLOOP_TEST_ROUNDS", "12"))
EACH = 10
"""Answers at least that a gateway gives before it is killed."""
VICTIMS = ("gateway", "controller", "trainer", "worker")
pytestmark = pytest.mark.timeout(300 + 20 * ROUNDS)


class Load:
    """Calls and flags without a pause; remembers when each was sent and acknowledged."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._ended = threading.Event()
        self.answers: dict[str, tuple[float, float]] = {}
        self.flags: set[str] = set()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        body = {"model": "support", "messages": [{"role": "user", "content": "What?"}]}
        while not self._ended.is_set():
            with suppress(httpx.HTTPError, ValueError), self._stack.live.http() as http:
                sent = time.monotonic()
                answer = http.post("/v1/chat/completions", json=body, timeout=20)
                if answer.status_code != 200:
                    time.sleep(0.05)
                    continue
                response_id = answer.json()["id"]
                self.answers[response_id] = (sent, time.monotonic())
                flag = {"response_id": response_id, "rating": "down"}
                told = http.post("/v1/feedback", json=flag, timeout=20)
                if told.status_code == 200:
                    self.flags.add(told.json()["id"])


class Refreshes:
    """Sees to it that there is always a refresh to be killed, each on one row more."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.jobs: list[str] = []

    def one_more(self) -> None:
        """Ask for a refresh unless one is under way, or the gateway is away."""
        with suppress(httpx.HTTPError, KeyError, ValueError), self._stack.live.admin() as admin:
            if self.jobs and self.state(admin, self.jobs[-1]) in ("queued", "running"):
                return
            rows = "".join(
                json.dumps({"instruction": "Answer.", "input": f"row {n} of all", "output": f"{n}"})
                + "\n"
                for n in range(25 + len(self.jobs))
            )
            files = {"file": ("rows.jsonl", rows.encode())}
            admin.post("/admin/v1/imports/support", files=files).raise_for_status()
            made = admin.post("/admin/v1/refreshes", json={"alias": "support"})
            if made.status_code == 201:
                self.jobs.append(made.json()["id"])

    def state(self, admin: httpx.Client, job_id: str) -> str:
        return str(admin.get(f"/admin/v1/jobs/{job_id}").json()["state"])


def killed(gateway: Process, late: Lateness) -> tuple[float, float]:
    """Kill it; answers given from the first of these moments to the second may be lost with it.

    Within 100 ms of its end a capture is safe, if the machine lets the gateway run: it wakes up,
    gathers for a moment, and writes.
    """
    began = time.monotonic() - 0.1 - 3 * late.worst
    gateway.stop(signal.SIGKILL)
    return began, time.monotonic()


def rows(stack: Stack, query: str) -> list[Any]:
    with closing(sqlite3.connect(stack.home / "adapterloop.db", timeout=10)) as connection:
        return [row[0] for row in connection.execute(query)]


def test_nothing_acknowledged_is_lost_and_each_refresh_registers_one_version(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    with stack.live.admin() as admin:
        keys = [
            admin.post("/admin/v1/keys", json={"owner": "t", **fields}).json()["key"]
            for fields in ({"role": "trainer"}, {"role": "app", "purpose": "evaluation"})
        ]
        admin.post("/admin/v1/adapters/support/promote", json={"version": 0}).raise_for_status()
        golden = {
            "id": "g",
            "instruction": "Answer.",
            "input": "golden",
            "output": "x",
            "slice": "",
        }
        admin.put("/admin/v1/golden/support", content=json.dumps(golden)).raise_for_status()
    arguments = ["tests.integration.refresher", stack.live.root, *keys, str(stack.home / "trainer")]
    (stack.home / "trainer").mkdir()
    trainer = Process("trainer", arguments, stack.home / "logs").start()
    draw, refreshes, kills = random.Random(5), Refreshes(stack), []
    refreshes.one_more()
    try:
        with Load(stack) as load, Lateness() as late:
            for round_ in range(ROUNDS):
                victim = VICTIMS[round_ % len(VICTIMS)]
                time.sleep(draw.uniform(0.1, 1.2))
                match victim:
                    case "gateway":
                        more = len(load.answers) + EACH
                        assert wait_for(lambda n=more: len(load.answers) >= n, 60)
                        kills.append(killed(stack.gateway, late))
                        stack.gateway.start()
                    case "controller":
                        stack.controller.stop(signal.SIGKILL)
                        stack.controller.start()
                    case "trainer":
                        trainer.stop(signal.SIGKILL)
                        trainer.start()
                    case "worker":
                        stack.workers[0].kill()
                        stack.workers[0].restart()
                refreshes.one_more()
            stack.wait_ready()
            time.sleep(1)
        stack.wait_ready()
        with stack.live.admin() as admin:
            last = refreshes.jobs[-1]
            ended = wait_for(lambda: refreshes.state(admin, last) not in ("queued", "running"), 120)
            assert ended, f"{trainer.tail()}\n{stack.controller.tail()}"
            jobs = {job: admin.get(f"/admin/v1/jobs/{job}").json() for job in refreshes.jobs}
            versions = admin.get("/admin/v1/adapters/support").json()["versions"]
    finally:
        trainer.stop(signal.SIGKILL)

    assert {job["reason"] for job in jobs.values()} == {None}
    assert {job["state"] for job in jobs.values()} == {"done"}
    made = sorted(job["stages"]["register"]["version"] for job in jobs.values())
    assert (
        made == sorted(version["version"] for version in versions) == list(range(1, len(jobs) + 1))
    )
    # What was sent before a kill was answered before it too, however much later that was read.
    must = {
        response_id
        for response_id, (sent, read) in load.answers.items()
        if not any(begin < read and sent < end for begin, end in kills)
    }
    assert len(must) > ROUNDS
    assert wait_for(lambda: must <= set(rows(stack, "SELECT id FROM captures")), 60)
    assert wait_for(lambda: load.flags <= set(rows(stack, "SELECT id FROM feedback")), 60)
    for table in ("captures", "feedback"):
        assert set(Counter(rows(stack, f"SELECT id FROM {table}")).values()) == {1}
    assert set(Counter(rows(stack, "SELECT response_id FROM review_items")).values()) == {1}
