"""What it costs to give a call a worker and to count its end: `python -m bench.routing`.

Eight workers, idle or full; full ones with calls in the queue, so that each end lets one go.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any

from gateway.registry.snapshot import Snapshot, Version, VersionState, WorkerSpec
from gateway.serving.router import Router
from gateway.serving.waiting import Standing
from gateway.settings import QueueSettings
from gateway.workers.probe import Observed, WorkerWatch

WORKERS, CALLS, ROUNDS = 8, 5000, 9
BASE = Version(0, "*", "base", 0, "ab" * 32, "", "base", 0, VersionState.SERVING)


def make_router(**settings: Any) -> Router:
    """Make a router over workers that were just seen idle."""
    specs = {f"w{n}": WorkerSpec(f"w{n}", f"http://w{n}") for n in range(WORKERS)}
    no: Any = None
    watch = WorkerWatch(lambda spec: no)
    router = Router(watch, no, no, QueueSettings(**settings))
    router.update(Snapshot(1, {}, {}, {}, specs))
    names = frozenset({"base@0"})
    for at, (name, prober) in enumerate(watch._probers.items()):  # noqa: SLF001
        seen = Observed(name, healthy=True, boot="1", names=names, bases=names, at=time.time() + at)
        watch._publish(prober, seen)  # noqa: SLF001
    return router


async def idle_us() -> float:
    """Give microseconds of CPU for one call, from its choice to its end, with room for all."""
    router, standing, deadline = make_router(), Standing(1, "normal"), time.monotonic() + 3600
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for n in range(CALLS):
            target = await router.begin(BASE, f"session-{n}", deadline, {}, standing)
            router.end(target, answered=True)
        took.append((time.process_time() - began) / CALLS * 1e6)
    return statistics.median(took)


async def full_us(waiting: int, keys: int) -> float:
    """Give the same where so many calls of so many keys wait, and one goes as one ends."""
    router = make_router(per_worker=8, size=waiting)
    deadline = time.monotonic() + 3600

    async def call(n: int) -> None:
        standing = Standing(n % keys, ("high", "normal", "low")[n % 3])
        target = await router.begin(BASE, f"session-{n}", deadline, {}, standing)
        await asyncio.sleep(0)
        router.end(target, answered=True)

    took = []
    for _ in range(ROUNDS):
        tasks = [asyncio.ensure_future(call(n)) for n in range(waiting)]
        began = time.process_time()
        await asyncio.gather(*tasks)
        took.append((time.process_time() - began) / waiting * 1e6)
    return statistics.median(took)


def main() -> None:
    """Print the figures as JSON."""
    found = {
        "idle": asyncio.run(idle_us()),
        "full, 1024 wait, 8 keys": asyncio.run(full_us(1024, 8)),
        "full, 1024 wait, 1024 keys": asyncio.run(full_us(1024, 1024)),
    }
    print(json.dumps({name: round(us, 1) for name, us in found.items()}))


if __name__ == "__main__":
    main()
