"""Which workers are full, by their own last readings and our own calls since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.settings import QueueSettings
from gateway.workers.probe import Observed


def waiting_now(seen: Observed, more: int, most: int | None) -> int:
    """Estimate how many calls wait on a worker that got `more` calls since it was `seen`.

    Where calls waited, those that came since wait too, and each that ended let one go. Where none
    did, the worker runs as many at once as when calls waited last (`most`); None: that was not seen
    yet, so nothing is known to wait.
    """
    if seen.waiting:
        return seen.waiting + more
    if most is None:
        return 0
    return seen.running + more - max(most, seen.running)


@dataclass(slots=True)
class _Reading:
    """What a worker said last, and how many calls of ours were in flight then."""

    seen: Observed
    in_flight: int
    most: int | None


class FullWorkers:
    """Keeps the `names` of the workers that take no further call."""

    def __init__(self, settings: QueueSettings) -> None:
        self.names: set[str] = set()
        self._settings = settings
        self._readings: dict[str, _Reading] = {}

    def read(self, seen: Observed, in_flight: int) -> None:
        """Take note of a reading; `in_flight` are our calls on the worker now."""
        last = self._readings.get(seen.worker)
        if last is not None and last.seen.at == seen.at:
            return  # of a worker that answers late, the last reading is told again
        most = last.most if last is not None and last.seen.boot == seen.boot else None
        if seen.waiting >= self._settings.worker_waiting:
            most = seen.running
        self._readings[seen.worker] = _Reading(seen, in_flight, most)
        self.count(seen.worker, in_flight)

    def count(self, worker: str, in_flight: int) -> None:
        """Take note of how many calls of ours are on a worker now."""
        if self._is_full(worker, in_flight):
            self.names.add(worker)
        else:
            self.names.discard(worker)

    def keep(self, workers: Collection[str]) -> None:
        """Forget all other workers."""
        self._readings = {name: r for name, r in self._readings.items() if name in workers}
        self.names.intersection_update(workers)

    def _is_full(self, worker: str, in_flight: int) -> bool:
        bounds = self._settings
        if bounds.per_worker is not None and in_flight >= bounds.per_worker:
            return True
        last = self._readings.get(worker)
        if last is None:
            return False
        waiting = waiting_now(last.seen, in_flight - last.in_flight, last.most)
        return waiting >= bounds.worker_waiting or last.seen.kv_usage > bounds.kv_usage
