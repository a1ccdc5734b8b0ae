"""Placement under many adapters: how near it comes to an ideal cache.

    python -m bench.zipf --calls 3000 --rate 20

A real gateway, controller and guard process over SQLite, 8 stub workers of 8 slots, 1,000 adapters.
Calls for them come at a steady rate, by Zipf's law (exponent 1), each on its own. A hit is a call
whose adapter was proven on a worker when it came; the ideal is an LRU cache of 64 adapters over the
same order of calls, in which a load takes no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from bench.fleet import fleet
from bench.machine import cpu_seconds
from gateway.registry.service import Registry
from gateway.registry.snapshot import VersionState
from tests.integration.adapters import make_adapter
from tests.integration.stack import Stack

WORKERS, SLOTS, ADAPTERS = 8, 8, 1000
CALLS, RATE = 3000, 20.0
CLIENTS = 64
FINGERPRINT = {
    "prompts": [{"token_ids": [5, 6, 7, 8], "answer_start": 2}],
    "base_mean": [-3.0],
    "adapter_mean": [-2.0],
}


def draw(calls: int, adapters: int, seed: int) -> list[int]:
    """Give the adapters that are called, one after another: 0 is the most popular."""
    weights = [1 / rank for rank in range(1, adapters + 1)]
    return random.Random(seed).choices(range(adapters), weights, k=calls)  # noqa: S311


def ideal_hits(order: Sequence[int], size: int) -> int:
    """Count the hits of an LRU cache that is empty at first."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for adapter in order:
        hits += adapter in cache
        cache[adapter] = None
        cache.move_to_end(adapter)
        if len(cache) > size:
            cache.popitem(last=False)
    return hits


def register(stack: Stack, adapters: int) -> None:
    """Put the adapters into the registry, as ones that were proven before."""
    registry = Registry.from_settings(stack.settings)
    for number in range(adapters):
        folder = make_adapter(stack.home / "sources" / str(number), seed=number)
        (folder / "manifest.json").write_text(json.dumps({"fingerprint": FINGERPRINT}))
        version = registry.register("default", f"a{number}", folder)
        registry.set_state(version.id, VersionState.CANDIDATE)
    registry.close()


class Load:
    """Calls at a steady rate, over a bounded number of connections."""

    def __init__(self, stack: Stack, session: aiohttp.ClientSession) -> None:
        self.failed: list[str] = []
        self._stack = stack
        self._session = session

    async def run(self, order: Sequence[int], rate: float) -> None:
        """Make the calls; returns when all are answered."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for at, adapter in enumerate(order):
                await asyncio.sleep(max(0.0, began + at / rate - time.perf_counter()))
                group.create_task(self._call(f"a{adapter}@1"))

    async def _call(self, model: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "Well?"}]}
        url = f"{self._stack.live.root}/v1/chat/completions"
        async with self._session.post(url, json=body) as answer:
            text = await answer.text()
            if answer.status != 200 or f'"model":"{model}"' not in text:
                self.failed.append(f"{answer.status} {text[:200]}")

    async def hits(self) -> int:
        """Read from the gateway how many calls found their adapter resident."""
        async with self._session.get(f"{self._stack.live.root}/metrics") as answer:
            page = await answer.text()
        found = re.search(r'adapterloop_adapter_calls_total\{found="resident"\} (\S+)', page)
        return int(float(found[1])) if found else 0

    async def state(self) -> tuple[int, int]:
        """Ask the workers how many loads there were, and how many adapters are loaded."""
        loads = resident = 0
        for worker in self._stack.workers:
            async with self._session.get(f"{worker.url}/_stub/state") as answer:
                told = await answer.json()
            loads += len(told["loads"])
            resident += len(told["adapters"])
        return loads, resident


async def measure(stack: Stack, order: Sequence[int], rate: float) -> dict[str, Any]:
    """Make the calls in two halves, and compare with the ideal."""
    headers = {"authorization": f"Bearer {stack.live.api_key}"}
    limit = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(connector=limit, headers=headers) as session:
        load = Load(stack, session)
        async with asyncio.timeout(300):
            while (await load.state())[1] < WORKERS * SLOTS:  # noqa: ASYNC110 (other processes)
                await asyncio.sleep(0.2)
        began, cpu = time.perf_counter(), _cpu(stack)
        half, loads = len(order) // 2, [(await load.state())[0]]
        for part in (order[:half], order[half:]):
            await load.run(part, rate)
            loads.append((await load.state())[0])
        hits = await load.hits()
    took, after = time.perf_counter() - began, _cpu(stack)
    ideal = ideal_hits(order, WORKERS * SLOTS)
    return {
        "hit_rate_over_ideal": round(hits / ideal, 3),
        "failed": len(load.failed),
        "loads_per_1000": [round((b - a) / half * 1000) for a, b in pairwise(loads)],
        "hit_rate": round(hits / len(order), 3),
        "ideal_hit_rate": round(ideal / len(order), 3),
        "calls": len(order),
        "calls_per_second": round(len(order) / took, 1),
        "cpu_share": {name: round((used - cpu[name]) / took, 2) for name, used in after.items()},
        "failures": load.failed[:3],
    }


def _cpu(stack: Stack) -> dict[str, float]:
    return {p.name: cpu_seconds(p.pid) for p in (stack.gateway, stack.controller)}


def figures(
    calls: int = CALLS, rate: float = RATE, adapters: int = ADAPTERS, seed: int = 1
) -> dict[str, Any]:
    """Give the figures of one run; `rate` is in calls a second."""
    order = draw(calls, adapters, seed)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        fleet(Path(folder), workers=WORKERS, text="Fine.", max_cpu_loras=SLOTS) as stack,
    ):
        register(stack, adapters)
        found = asyncio.run(measure(stack, order, rate))
        if found["failed"]:
            print(stack.gateway.tail(), stack.controller.tail(), sep="\n")
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Placement of many adapters under Zipf's law.")
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--rate", type=float, default=RATE, help="calls a second")
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(figures(**vars(parser.parse_args(argv)))))


if __name__ == "__main__":
    main()
