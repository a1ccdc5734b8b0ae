"""What should be where, and what follows from what was seen: pure functions, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from gateway.registry.snapshot import Placement, Snapshot, Version, VersionState
from gateway.workers.probe import Observed

RESIDENT = frozenset(
    {
        VersionState.REGISTERED,
        VersionState.VERIFYING,
        VersionState.CANDIDATE,
        VersionState.SERVING,
    }
)
UNPROVEN = frozenset({VersionState.REGISTERED, VersionState.VERIFYING})
VERDICTS = 2  # bad verdicts in a row that one worker must give: a fault may pass
OUR_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}@[0-9]+-[0-9a-f]{8}")


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


def desired(snapshot: Snapshot) -> tuple[Version, ...]:
    """The versions that workers should hold as far as they have room, the most needed first.

    Aliases' stable versions come first, then candidates of rollouts, then previous versions (so
    that a rollback is warm), then the rest, newest first.
    """
    aliases = snapshot.aliases.values()
    ranked: list[Version | None] = [alias.stable for alias in aliases]
    ranked += [alias.candidate for alias in aliases]
    ranked += [alias.previous for alias in aliases]
    ranked += sorted(snapshot.versions.values(), key=attrgetter("id"), reverse=True)
    unique = {
        version.id: version
        for version in ranked
        if version is not None
        and not version.is_base
        and not version.draining
        and version.state in RESIDENT
    }
    return tuple(unique.values())


def share(seen: Observed, wanted: Iterable[Version], room: int) -> tuple[Version, ...]:
    """What one worker should hold: the first `room` that fit it, or what it was started with."""
    fitting = tuple(version for version in wanted if seen.fits(version))
    return fitting if seen.static else fitting[:room]


def plan(
    seen: Observed,
    wanted: Sequence[Version],
    versions: Mapping[int, Version],
    placements: Iterable[Placement],
) -> WorkerPlan:
    """Compare what a healthy worker shows with what it should hold.

    `versions` are all known ones by id, `placements` those of this worker. A version that has a
    valid placement which is not routable is to be proven again. A static worker drains nothing.
    """
    valid: dict[int, Placement] = {}
    forget = []
    for placement in placements:
        version = versions.get(placement.version_id)
        if version is None or not seen.same_boot(placement) or not seen.serves(version):
            forget.append(placement.version_id)
        else:
            valid[version.id] = placement
    keep = {version.worker_name for version in wanted}
    known = {version.worker_name for version in versions.values()}
    drain = [
        name for name in sorted(seen.adapters - keep) if name in known or OUR_NAME.fullmatch(name)
    ]
    prove = [v for v in wanted if v.id not in valid or not valid[v.id].routable]
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


def drained(name: str, since: int, beats: Iterable[tuple[int, frozenset[str]]]) -> bool:
    """Whether no live gateway can still send a call to `name`.

    `beats` are (revision routed by, unroutable names still in flight) of the live gateways.
    """
    return all(revision >= since and name not in busy for revision, busy in beats)
