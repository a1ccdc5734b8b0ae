"""A ceiling on what one call costs the serving process, everything on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.serving_cpu import everything, measure

CEILING_US = 400.0


@pytest.mark.timeout(180)
def test_cpu_per_unary_call(tmp_path: Path, guard_socket: Path) -> None:
    with everything(tmp_path, guard_socket) as stack:
        found = measure(stack, stream=False, calls=800, runs=5, warm_up=500, connections=16)
    assert found["median_us"] < CEILING_US, found
