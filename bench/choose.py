"""What choosing a worker costs, by the number of adapters: `python -m bench.choose`."""

from __future__ import annotations

import itertools
import json
import statistics
import time
import timeit
from collections.abc import Callable

from gateway.choose import choose
from gateway.registry.snapshot import Effect, Placement, Version, VersionState
from gateway.workers.probe import Observed

WORKERS, CALLS, ROUNDS = 8, 500, 60


def choose_us(*adapters: int, workers: int = WORKERS) -> dict[int, list[float]]:
    """Give microseconds of CPU per choice, round by round, for each number of adapters.

    Every worker has every adapter. The rounds of the numbers alternate, so that a machine that is
    slower for a while is so for all of them.
    """
    ones = {number: _one(number, workers) for number in adapters}
    found: dict[int, list[float]] = {number: [] for number in adapters}
    for _ in range(ROUNDS):
        for number, one in ones.items():
            took = timeit.timeit(one, timer=time.process_time, number=CALLS)
            found[number].append(took / CALLS * 1e6)
    return found


def medians(*adapters: int) -> dict[str, float]:
    """Give the median of the rounds, by the number of adapters."""
    return {str(n): round(statistics.median(us), 2) for n, us in choose_us(*adapters).items()}


def _one(adapters: int, workers: int) -> Callable[[], object]:
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
    calls = itertools.count()

    def one() -> object:
        number = next(calls)
        version = versions[number % adapters]
        return choose(
            version, placements[version.id], fleet, busy, f"session-{number}", slack=2, share=0.25
        )

    return one


def _version(number: int) -> Version:
    digest = f"{number:064x}"
    return Version(number, "default", f"a{number}", 1, digest, "", "base", 8, VersionState.SERVING)


def main() -> None:
    """Print the figures as JSON."""
    print(json.dumps({"choose_us": medians(10, 1000), "workers": WORKERS}))


if __name__ == "__main__":
    main()
