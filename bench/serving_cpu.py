"""CPU time of the gateway process for a unary call, with and without a copy, and a streamed token.

    python -m bench.serving_cpu --json serving_cpu.json

Everything is on: key check, guards in their own process, adapter routing, logprobs read for
confidence, recording. The worker is a stub that answers at once, the load is fixed, and CPU time
(user and system) is read before and after: far steadier than requests per second.

On a shared machine even that differs by up to twice from one quarter of an hour to the next. The
stub worker answers the same calls at the same moments, so its cost goes up and down alike: the
gateway's cost as a multiple of it stays the same within a tenth (as long as the stub does).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import fleet
from bench.load import make_call, run_load
from bench.machine import cpu_seconds, describe
from tests.integration.stack import Stack

QUESTION = [
    {"role": "system", "content": "You are the help desk of a parcel service. Be brief."},
    {"role": "user", "content": "My parcel should have come on Monday. Where can it be?"},
]
ANSWER = (
    "I am sorry that your parcel is late. It left the depot on Monday morning, and the driver "
    "could not find the entrance. It will come tomorrow before noon."
)


@contextmanager
def everything(home: Path, guard_socket: Path | None = None) -> Iterator[Stack]:
    """Stub worker, guard process, controller and gateway, with `support@1` promoted."""
    with fleet(home, guard_socket, text=ANSWER) as stack:
        stack.publish("support", stack.source("one", seed=1))
        if not stack.routable("support"):
            raise RuntimeError(f"the adapter is not served:\n{stack.controller.tail()}")
        yield stack


async def _run(stack: Stack, call: bytes, calls: int, connections: int) -> dict[str, float]:
    processes = {"cpu_s": stack.gateway.pid, "worker_cpu_s": stack.workers[0].process.pid}
    before, began = [cpu_seconds(pid) for pid in processes.values()], time.perf_counter()
    await run_load(stack.port, call, calls=calls, connections=connections)
    # What was put off (recording) belongs to the calls that caused it.
    await asyncio.sleep(0.3)
    spent = [cpu_seconds(pid) - was for pid, was in zip(processes.values(), before, strict=True)]
    found = dict(zip(processes, spent, strict=True)) | {"wall_s": time.perf_counter() - began}
    return {name: round(value, 4) for name, value in found.items()}


def measure(
    stack: Stack, *, stream: bool, calls: int, runs: int, warm_up: int, connections: int
) -> dict[str, Any]:
    """Measure one kind of call; the median over the runs, in microseconds of CPU time per unit."""
    body = {"model": "support", "messages": QUESTION, "stream": stream, "max_tokens": 256}
    call = make_call("/v1/chat/completions", stack.live.api_key, body)
    with stack.live.http() as http:
        plain = http.post("/v1/chat/completions", json=body | {"stream": False}).json()
    tokens = plain["usage"]["completion_tokens"]
    units = calls * (tokens if stream else 1)
    asyncio.run(_run(stack, call, warm_up, connections))
    done = [asyncio.run(_run(stack, call, calls, connections)) for _ in range(runs)]
    costs = [run["cpu_s"] / units * 1e6 for run in done]
    return {
        "unit": "streamed token" if stream else "request",
        "median_us": round(statistics.median(costs), 1),
        "times_worker": round(statistics.median(r["cpu_s"] / r["worker_cpu_s"] for r in done), 2),
        "all_us": [round(cost, 1) for cost in costs],
        "calls": calls,
        "tokens_per_answer": tokens,
        "connections": connections,
        "runs": done,
    }


def shadowed(stack: Stack, *, calls: int, runs: int, connections: int) -> dict[str, Any]:
    """Measure unary calls of which every one is copied to a candidate; ends with the rollout on."""
    number = stack.publish("support", stack.source("two", seed=2), promote=False)
    shadow = {"share": 1, "answers": 1_000_000}
    body = {"version": number, "steps": [0.5, 1], "shadow": shadow}
    with stack.live.admin() as admin:
        admin.post("/admin/v1/adapters/support/rollout", json=body).raise_for_status()
    before = _copies(stack)
    found = measure(
        stack, stream=False, calls=calls, runs=runs, warm_up=calls // 4, connections=connections
    )
    asked = calls * runs + calls // 4 + 1
    return found | {"copied": round((_copies(stack) - before) / asked, 2)}


def _copies(stack: Stack) -> float:
    """How many copies came to a pair so far."""
    with stack.live.http() as http:
        page = http.get("/metrics").text
    [paired] = re.findall(r'^adapterloop_shadows_total\{fate="paired"\} (\S+)', page, re.MULTILINE)
    return float(paired)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description="CPU time per call of the serving path.")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args(argv)
    figures: dict[str, Any] = {"machine": describe()}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, everything(Path(folder)) as stack:
        shared = {"runs": options.runs, "connections": options.connections}
        figures["unary"] = measure(
            stack, stream=False, calls=options.calls, warm_up=options.calls // 4, **shared
        )
        figures["streamed"] = measure(
            stack, stream=True, calls=options.streams, warm_up=options.streams // 4, **shared
        )
        figures["shadowed"] = shadowed(stack, calls=options.calls, **shared)
    for name in ("unary", "streamed", "shadowed"):
        found = figures[name]
        copied = f", {found['copied']:.0%} copied" if "copied" in found else ""
        print(
            f"{name:9} {found['median_us']:8.1f} us of CPU per {found['unit']}{copied}, "
            f"{found['times_worker']} times the worker's  {found['all_us']}"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
