"""Which workers get no calls for a while because they failed. No I/O, and the time is given.

    closed -- failures --> open -- its pause is over, a call is tried --> half open
    half open -- answered --> closed        half open -- failed --> open, for twice as long

Failures in a row open a worker's circuit, and so does failing far more often than the other
workers do (an outlier). A worker that was restarted begins anew. Where all circuits are open one is
called all the same; as soon as one answers, what ailed them all is over, and all are tried soon.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.serving.recent import Recent

logger = logging.getLogger(__name__)

IN_A_ROW = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
SPAN_S = 20.0
"""Failures are compared over so many seconds."""
FEWEST = 20
"""Calls of a worker, and of all others together, below which they are not compared."""
FAR_RATE, FAR_SIGMA = 0.1, 3.0
"""An outlier's failure rate is greater by both: this much, and so many standard errors."""


class State(StrEnum):
    """Whether a worker gets calls: all, none, or one that is tried."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class _Circuit:
    """`until` ends the pause of an open circuit; of a half open one, the time of its one call.

    With `last_resort` it is called though it is open.
    """

    state: State = State.CLOSED
    in_a_row: int = 0
    outlier: bool = False
    pause: float = 0.0
    until: float = 0.0
    closed_at: float = 0.0
    last_resort: bool = False
    recent: Recent = field(default_factory=lambda: Recent(SPAN_S))


class Breakers:
    """One circuit for each worker."""

    def __init__(self) -> None:
        self._circuits: dict[str, _Circuit] = {}
        self._boots: dict[str, str] = {}
        self._shut: dict[str, _Circuit] = {}

    @property
    def any_open(self) -> bool:
        """Whether `out` is worth asking."""
        return bool(self._shut)

    @property
    def shut(self) -> Set[str]:
        """The workers whose circuits are not closed."""
        return self._shut.keys()

    def answered(self, worker: str, now: float) -> None:
        """Take note of a call that the worker answered to its end."""
        circuit = self._circuit(worker)
        circuit.recent.add(now)
        circuit.in_a_row = 0
        if circuit.state is State.HALF_OPEN or circuit.last_resort:
            self._close(worker, circuit, now)

    def failed(self, worker: str, now: float) -> None:
        """Take note of a call that failed through the worker's own fault."""
        circuit = self._circuit(worker)
        circuit.recent.add(now, marked=True)
        circuit.in_a_row += 1
        if circuit.state is State.HALF_OPEN:
            self._open(worker, circuit, now, "the call that was tried failed")
        elif circuit.state is State.CLOSED:
            if circuit.in_a_row >= IN_A_ROW:
                self._open(worker, circuit, now, f"{IN_A_ROW} calls in a row failed")
            elif self._is_outlier(worker, now):
                circuit.outlier = True
                self._open(worker, circuit, now, "it fails far more often than the others")

    def tried(self, worker: str, now: float) -> None:
        """Take note of a call that goes to the worker; after a pause it is the one that decides."""
        circuit = self._shut.get(worker)
        if circuit is None:
            return
        if now < circuit.until:
            circuit.last_resort = circuit.state is State.OPEN
            return
        if circuit.state is State.OPEN:
            logger.info("worker %s gets one call to see whether it answers", worker)
        # Where nothing comes of it, since the client leaves or reads for long, another may follow.
        circuit.state, circuit.until = State.HALF_OPEN, now + circuit.pause

    def out(self, able: Collection[str], now: float) -> frozenset[str]:
        """Say which of the workers that could serve a call are to be left out; never all.

        Outliers only while at most half are out. Where every circuit is open, the one whose pause
        ends first is tried.
        """
        shut = self._shut
        waiting = {name for name in able if name in shut and now < shut[name].until}
        outliers = sorted(
            (name for name in waiting if shut[name].outlier),
            key=lambda name: (shut[name].until, name),
        )
        spared = max(0, len(waiting) - len(able) // 2)
        waiting.difference_update(outliers[:spared])
        if waiting and len(waiting) == len(able):
            waiting.remove(min(waiting, key=lambda name: (shut[name].until, name)))
        return frozenset(waiting)

    def booted(self, worker: str, boot: str) -> None:
        """Take note of the boot that answers; another one begins with a clean sheet."""
        before = self._boots.get(worker)
        self._boots[worker] = boot
        if before not in (None, boot):
            self._circuits.pop(worker, None)
            if self._shut.pop(worker, None) is not None:
                logger.info("worker %s was restarted and gets calls", worker)

    def keep(self, workers: Collection[str]) -> None:
        """Forget all other workers."""
        self._circuits = {name: c for name, c in self._circuits.items() if name in workers}
        self._shut = {name: c for name, c in self._shut.items() if name in workers}
        self._boots = {name: boot for name, boot in self._boots.items() if name in workers}

    def states(self) -> Mapping[str, State]:
        """Tell the state of each worker's circuit."""
        return {name: circuit.state for name, circuit in self._circuits.items()}

    def _circuit(self, worker: str) -> _Circuit:
        circuit = self._circuits.get(worker)
        if circuit is None:
            circuit = self._circuits[worker] = _Circuit()
        return circuit

    def _close(self, worker: str, circuit: _Circuit, now: float) -> None:
        if len(self._shut) == len(self._circuits):
            # Else this one would get all calls until the others' pauses, grown long, are over.
            for other in self._shut.values():
                other.until = min(other.until, now + FIRST_PAUSE_S)
        circuit.state, circuit.outlier, circuit.closed_at = State.CLOSED, False, now
        circuit.last_resort = False
        del self._shut[worker]
        logger.info("worker %s answers again and gets calls", worker)

    def _open(self, worker: str, circuit: _Circuit, now: float, why: str) -> None:
        again = circuit.state is State.HALF_OPEN or now - circuit.closed_at < LONGEST_PAUSE_S
        longer = min(2 * circuit.pause, LONGEST_PAUSE_S)
        circuit.pause = longer if circuit.pause and again else FIRST_PAUSE_S
        circuit.state, circuit.until = State.OPEN, now + circuit.pause
        circuit.in_a_row, circuit.recent, circuit.last_resort = 0, Recent(SPAN_S), False
        self._shut[worker] = circuit
        logger.warning("worker %s gets no calls for %g s: %s", worker, circuit.pause, why)

    def _is_outlier(self, worker: str, now: float) -> bool:
        calls, failures = self._circuits[worker].recent.read(now)
        others = [c.recent.read(now) for name, c in self._circuits.items() if name != worker]
        return far_worse(
            failures, calls, sum(failed for _, failed in others), sum(all_ for all_, _ in others)
        )


def far_worse(failures: float, calls: float, other_failures: float, other_calls: float) -> bool:
    """Say whether failures out of calls are far more than the others' (two-proportion z-test)."""
    if calls < FEWEST or other_calls < FEWEST:
        return False
    difference = failures / calls - other_failures / other_calls
    pooled = (failures + other_failures) / (calls + other_calls)
    error = math.sqrt(pooled * (1 - pooled) * (1 / calls + 1 / other_calls))
    return difference > FAR_RATE and difference > FAR_SIGMA * error
