"""What follows from what was seen of the workers: pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.controller.placement import UNPROVEN, Site
from gateway.registry.names import OUR_NAME
from gateway.registry.records import in_flight
from gateway.registry.snapshot import Placement, Version, VersionState
from gateway.workers.probe import Observed

Ids = Mapping[str, int]
"""The version ids by worker-side name."""

VERDICTS = 2  # bad verdicts in a row that one worker must give: a fault may pass


@dataclass(frozen=True, slots=True)
class Trial:
    """How often one boot of a worker failed to serve a version, and since when it may try again.

    `verdicts` counts answers that speak against the version (refused, no effect, other weights);
    `failures` counts everything, such as a worker that was too slow.
    """

    boot: str
    failures: int = 0
    verdicts: int = 0
    not_before: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What one worker needs next: version ids to forget, versions to prove, names to drain."""

    forget: tuple[int, ...] = ()
    prove: tuple[Version, ...] = ()
    drain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a version's state, with its reason."""

    state: VersionState
    reason: str


def site(seen: Observed, room: int, placements: Mapping[int, Placement], ids: Ids) -> Site:
    """What a healthy worker can take: adapters that are not ours keep their slots.

    A placement that was recorded after the worker was last looked at counts as seen.
    """
    foreign = sum(OUR_NAME.fullmatch(name) is None for name in seen.adapters)
    shown = {ids[name] for name in seen.adapters if name in ids}
    proven = {i for i, placement in placements.items() if seen.same_boot(placement)}
    return Site(seen.worker, room - foreign, frozenset(shown | proven), seen.base_model)


def plan(
    seen: Observed,
    wanted: Sequence[Version],
    versions: Mapping[int, Version],
    placements: Iterable[Placement],
    aged: Collection[int] = (),
) -> WorkerPlan:
    """Compare what a healthy worker shows with what it should hold.

    `versions` are all known ones by id, `placements` those of this worker. One that is no longer
    true or no longer wanted is to be forgotten; a name drains only once its placement is gone, for
    until then calls come. A version that has a valid placement which is not routable is to be
    proven again, and last of all one whose proof has `aged`. A static worker drains nothing.
    """
    keep = {version.id: version for version in wanted}
    valid: dict[int, Placement] = {}
    forget: list[int] = []
    for placement in placements:
        version = keep.get(placement.version_id)
        if version is None or not seen.same_boot(placement) or not seen.serves(version):
            forget.append(placement.version_id)
        else:
            valid[version.id] = placement
    names = {version.worker_name for version in wanted}
    names |= {versions[i].worker_name for i in forget if i in versions}
    drain = [name for name in sorted(seen.adapters - names) if OUR_NAME.fullmatch(name)]
    prove = [v for v in wanted if v.id not in valid or not valid[v.id].routable]
    prove += [v for v in wanted if v.id in valid and valid[v.id].routable and v.id in aged]
    return WorkerPlan(tuple(forget), tuple(prove), () if seen.static else tuple(drain))


def next_step(
    version: Version,
    placements: Iterable[Placement],
    observed: Mapping[str, Observed],
    trials: Mapping[tuple[str, int], Trial],
) -> Step | None:
    """Where an unproven version goes: candidate by one proof, rejected by all that fit it."""
    if version.state not in UNPROVEN:
        return None
    for placement in placements:
        seen = observed.get(placement.worker)
        proven = placement.routable and seen is not None and seen.healthy
        if proven and seen is not None and seen.same_boot(placement):
            return Step(VersionState.CANDIDATE, f"{placement.worker}: {placement.detail}")
    able = [seen for seen in observed.values() if seen.healthy and seen.fits(version)]
    reasons = []
    for seen in able:
        trial = trials.get((seen.worker, version.id))
        if trial is None or trial.boot != seen.boot or trial.verdicts < VERDICTS:
            return None
        reasons.append(f"{seen.worker}: {trial.reason}")
    return Step(VersionState.REJECTED, " ".join(reasons)) if reasons else None


def drained(
    worker: str, name: str, since: int, beats: Iterable[tuple[int, frozenset[str]]]
) -> bool:
    """Whether no live gateway can still send a call to `name` on this worker.

    `beats` are (revision routed by, calls in flight as `in_flight` tells them) of the live
    gateways.
    """
    busy = in_flight(worker, name)
    return all(revision >= since and busy not in calls for revision, calls in beats)
