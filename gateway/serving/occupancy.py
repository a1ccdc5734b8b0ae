"""How busy workers are, and which are full: by their last readings and our own calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from gateway.settings import QueueSettings
from gateway.workers.probe import Observed


def waiting_now(seen: Observed, more: int, most: int | None) -> int:
    """Estimate how many calls wait on a worker that got `more` calls since it was `seen`.

    Where calls waited, those that came since wait too, and each that ended let one go. Where none
    did, the worker runs as many at once as when calls waited last, or as many as it was seen to run
    since (`most`); None: no call was seen to wait yet, so nothing is known to.
    """
    if seen.waiting:
        return seen.waiting + more
    if most is None:
        return 0
    return seen.running + more - max(most, seen.running)


@dataclass(slots=True)
class _Reading:
    """What a worker said last, and how many calls of ours were in flight then.

    `others` of those it told of are not ours. `peak` is the most of ours that were in flight at
    once since. With `refused` it took one no more, whatever it had told.
    """

    seen: Observed
    in_flight: int
    most: int | None
    others: int
    peak: int
    refused: bool = False


class Occupancy:
    """Keeps how many calls are `outstanding` on each worker, and which ones are `full`.

    Outstanding are our own calls in flight, and those of others that it told of last. Our own are
    in what it tells too, and are counted once: else a worker that was busy when it was read would
    be passed over long after its calls ended.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self.full: set[str] = set()
        self.outstanding: Counter[str] = Counter()
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
        elif most is not None:
            most = max(most, seen.running)  # long prompts were few at once, short ones are more
        # It told before we heard: of our calls then, some have ended, and some had not arrived.
        ours = max(in_flight, last.peak) if last is not None else in_flight
        others = max(0, seen.running + seen.waiting - ours)
        self._readings[seen.worker] = _Reading(seen, in_flight, most, others, in_flight)
        self.count(seen.worker, in_flight)

    def count(self, worker: str, in_flight: int) -> None:
        """Take note of how many calls of ours are on a worker now."""
        last = self._readings.get(worker)
        if last is not None:
            last.peak = max(last.peak, in_flight)
        if outstanding := in_flight + (last.others if last is not None else 0):
            self.outstanding[worker] = outstanding
        else:
            self.outstanding.pop(worker, None)  # workers that are found come under ever new names
        if self._is_full(last, in_flight):
            self.full.add(worker)
        else:
            self.full.discard(worker)

    def refused(self, worker: str) -> None:
        """Take note that a worker took a call no more: it is full until it is read again."""
        last = self._readings.get(worker)
        if last is not None:
            last.refused = True
            self.full.add(worker)

    def keep(self, workers: Collection[str]) -> None:
        """Forget all other workers."""
        self._readings = {name: r for name, r in self._readings.items() if name in workers}
        for name in self.outstanding.keys() - workers:
            del self.outstanding[name]
        self.full.intersection_update(workers)

    def _is_full(self, last: _Reading | None, in_flight: int) -> bool:
        bounds = self._settings
        if bounds.per_worker is not None and in_flight >= bounds.per_worker:
            return True
        if last is None:
            return False
        if last.refused:
            return True
        waiting = waiting_now(last.seen, in_flight - last.in_flight, last.most)
        return waiting >= bounds.worker_waiting or last.seen.kv_usage > bounds.kv_usage
