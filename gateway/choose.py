"""Which worker answers a call: a pure function of what was observed and promised."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from gateway.registry.snapshot import Placement, Version
from gateway.rendezvous import number, weight
from gateway.workers.probe import Observed


def choose(
    version: Version,
    placements: Iterable[Placement],
    observed: Mapping[str, Observed],
    outstanding: Mapping[str, int],
    key: str = "",
    *,
    slack: int = 0,
    share: float = 0.0,
    shut: Container[str] = (),
) -> str | None:
    """Give the name of the worker to call, or None while no worker can answer.

    `outstanding` are the calls on each worker, by its name, whoever made them; `shut` are workers
    that get no call now: full ones, and those that fail.

    An adapter goes only where this boot of the worker was proven to answer with it. The one with
    the fewest calls wins. Among those within `slack` calls of it, or that `share` of its own if
    that is more, workers that have the version in their running batch come before those that have
    it in memory only: the latter must first swap it in. Then the rendezvous hash of `key` decides,
    so that a session, or what begins alike, keeps its worker and the prefix cache there as workers
    come and go. Excluding a worker is leaving it out of `observed`.
    """
    loads = []
    for seen in able_workers(version, placements, observed):
        worker = seen.worker
        if worker in shut:
            continue
        loads.append((outstanding.get(worker, 0), worker, seen.active))
    if not loads:
        return None
    if len(loads) == 1:
        return loads[0][1]
    least = min([load for load, _, _ in loads])
    bound = least + max(slack, share * least)
    name = version.worker_name
    near = [worker for load, worker, active in loads if load <= bound and name in active]
    if not near:
        near = [worker for load, worker, _ in loads if load <= bound]
    if len(near) == 1:
        return near[0]
    mixed = number(key)
    return max(near, key=lambda worker: weight(mixed, worker))


def served_name(version: Version, seen: Observed) -> str:
    """The name to ask this worker for: its own base model, or the version's worker-side name."""
    return seen.name_of(version) or version.model


def able_workers(
    version: Version, placements: Iterable[Placement], observed: Mapping[str, Observed]
) -> list[Observed]:
    """Give the workers that were proven to answer with the version, full or not."""
    if version.is_base:
        return [seen for seen in observed.values() if seen.healthy and seen.serves(version)]
    name = version.worker_name
    able = []
    for placement in placements:
        seen = observed.get(placement.worker)
        if (
            seen is not None
            and seen.healthy
            and placement.version_id == version.id
            and placement.routable
            and (name in seen.names or seen.serves(version))
            and (placement.boot == seen.boot != "" or seen.same_boot(placement))
        ):
            able.append(seen)
    return able
