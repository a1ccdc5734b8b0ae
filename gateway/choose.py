"""Which worker answers a call: a pure function of what was observed and promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from gateway.registry.snapshot import Placement, Version
from gateway.workers.probe import Observed


def choose(
    version: Version,
    placements: Iterable[Placement],
    observed: Mapping[str, Observed],
    in_flight: Mapping[str, int],
    key: str = "",
    *,
    slack: int = 0,
) -> str | None:
    """Give the name of the worker to call, or None while no worker can answer.

    An adapter goes only where this boot of the worker was proven to answer with it. The least
    loaded wins, by our own calls in flight and the worker's figures; among those within `slack`
    calls of the least the rendezvous hash of `key` decides, so a session keeps its worker (and its
    prefix cache) as workers come and go. Excluding a worker is leaving it out of `observed`.
    """
    loads: list[tuple[int, str]] = []
    for seen in _able(version, placements, observed):
        name = seen.worker
        loads.append((in_flight.get(name, 0) + seen.running + seen.waiting, name))
    if not loads:
        return None
    if len(loads) == 1:
        return loads[0][1]
    bound = min(loads)[0] + slack
    near = [name for load, name in loads if load <= bound]
    if len(near) == 1:
        return near[0]
    mixed = _number(key)
    return max(near, key=lambda name: _mix(mixed ^ _worker_number(name)))


def served_name(version: Version, seen: Observed) -> str:
    """The name to ask this worker for: its own base model, or the version's worker-side name."""
    return seen.name_of(version) or version.model


def _able(
    version: Version, placements: Iterable[Placement], observed: Mapping[str, Observed]
) -> Iterable[Observed]:
    if version.is_base:
        return [seen for seen in observed.values() if seen.healthy and seen.serves(version)]
    able = []
    for placement in placements:
        seen = observed.get(placement.worker)
        if (
            seen is not None
            and seen.healthy
            and placement.version_id == version.id
            and placement.routable
            and seen.serves(version)
            and seen.same_boot(placement)
        ):
            able.append(seen)
    return able


def _number(text: str) -> int:
    """Give 64 bits that are the same in every gateway."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


_worker_number = lru_cache(maxsize=4096)(_number)


def _mix(number: int) -> int:
    """Let every bit depend on every bit: SplitMix64's last step (Steele et al. 2014)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return number ^ (number >> 31)


_64_BITS = (1 << 64) - 1
