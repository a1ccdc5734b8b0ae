"""What choosing a worker costs does not grow with the number of adapters."""

from __future__ import annotations

from bench.choose import choose_us


def test_a_thousand_adapters_cost_what_ten_do() -> None:
    found = choose_us(10, 1000)
    # The quickest round of each: what else runs on the machine only adds to them.
    assert min(found[1000]) <= 1.5 * min(found[10]), found
