"""A histogram of seconds, in plain numbers."""

from __future__ import annotations

from bisect import bisect_left

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Seconds:
    """Counts per bucket, and the sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Give the buckets as Prometheus wants them."""
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        so_far = 0
        pairs = []
        for bound, count in zip(bounds, self.counts, strict=True):
            so_far += count
            pairs.append((bound, float(so_far)))
        return pairs
