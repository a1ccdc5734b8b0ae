"""A ceiling on what one call costs the serving process, everything on."""

from __future__ import annotations

from pathlib import Path

from bench.serving_cpu import everything, measure

CEILING = 2.7
"""Times the stub worker's cost of the same calls: 2.0 to 2.4 are seen, the most beside busy
processes. On a machine where a call costs 300 us this is 400 us."""


def test_cpu_per_unary_call(tmp_path: Path, guard_socket: Path) -> None:
    with everything(tmp_path, guard_socket) as stack:
        found = measure(stack, stream=False, calls=500, runs=15, warm_up=500, connections=16)
    assert found["times_worker"] < CEILING, found
