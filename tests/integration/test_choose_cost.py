"""What choosing a worker costs does not grow with the number of adapters."""

from __future__ import annotations

from bench.choose import choose_us


def test_a_thousand_adapters_cost_what_ten_do() -> None:
    ten, thousand = (min(choose_us(adapters) for _ in range(3)) for adapters in (10, 1000))
    assert thousand <= 1.5 * ten
