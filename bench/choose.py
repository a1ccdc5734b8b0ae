"""What choosing a worker costs, by the number of adapters: `python -m bench.choose`."""

from __future__ import annotations

import json
import statistics
import time
import timeit

from gateway.choose import choose
from gateway.registry.snapshot import Effect, Placement, Version, VersionState
from gateway.workers.probe import Observed

WORKERS, CALLS, ROUNDS = 8, 2000, 15


def choose_us(adapters: int, workers: int = WORKERS) -> float:
    """Give microseconds of CPU per choice, the median of several rounds.

    Every worker has every adapter.
    """
    versions = [_version(number) for number in range(1, adapters + 1)]
    names = frozenset(version.worker_name for version in versions) | {"base@0"}
    fleet = {
        name: Observed(name, healthy=True, boot="1", names=names, bases=frozenset({"base@0"}))
        for name in (f"worker-{number}" for number in range(workers))
    }
    placements = {
        version.id: [Placement(name, version.id, "1", Effect.EFFECTIVE) for name in fleet]
        for version in versions
    }
    busy = dict.fromkeys(fleet, 1)
    calls = iter(range(CALLS * ROUNDS))

    def one() -> None:
        number = next(calls)
        version = versions[number % adapters]
        choose(version, placements[version.id], fleet, busy, f"session-{number}", slack=2)

    took = timeit.repeat(one, timer=time.process_time, number=CALLS, repeat=ROUNDS)
    return statistics.median(took) / CALLS * 1e6


def _version(number: int) -> Version:
    digest = f"{number:064x}"
    return Version(number, "default", f"a{number}", 1, digest, "", "base", 8, VersionState.SERVING)


def main() -> None:
    """Print the figures as JSON."""
    found = {str(adapters): round(choose_us(adapters), 2) for adapters in (10, 1000)}
    print(json.dumps({"choose_us": found, "workers": WORKERS}))


if __name__ == "__main__":
    main()
