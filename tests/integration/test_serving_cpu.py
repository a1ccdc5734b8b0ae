"""A ceiling on what one call costs the serving process, everything on."""

from __future__ import annotations

import time
from pathlib import Path

from bench.serving_cpu import everything, measure

CEILING_US = 400.0
MOMENTS = 3
"""What else runs on the host only adds to the figure, by up to a half: a quiet moment tells it."""


def test_cpu_per_unary_call(tmp_path: Path, guard_socket: Path) -> None:
    medians: list[float] = []
    with everything(tmp_path, guard_socket) as stack:
        while len(medians) < MOMENTS and (not medians or min(medians) >= CEILING_US):
            time.sleep(10 * len(medians))
            found = measure(stack, stream=False, calls=800, runs=5, warm_up=500, connections=16)
            medians.append(found["median_us"])
    assert min(medians) < CEILING_US, medians
