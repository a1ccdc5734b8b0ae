"""Which worker should hold which versions: pure functions, no I/O.

`by_need` puts the versions in order, `place` shares the workers' room out in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from gateway.registry.names import model_name
from gateway.registry.records import Demand
from gateway.registry.snapshot import Snapshot, Version, VersionState
from gateway.rendezvous import number, weight

UNPROVEN = frozenset({VersionState.REGISTERED, VersionState.VERIFYING})
RESIDENT = UNPROVEN | {VersionState.CANDIDATE, VersionState.SERVING}
UNPROVEN_SHARE = 4  # of the room, one in so many is for versions that still need their proof
_ROUNDS = 3  # where pins compete for one slot, a second look finds what the first one missed
HOLD_S = 3.0  # so long a load counts as a use: time for the calls that it was for


@dataclass(frozen=True, slots=True)
class Site:
    """A worker that can take adapters: for how many of ours it has room, and which it has now.

    It takes those of its own `base_model`; empty, where there is only one, goes with all.
    """

    name: str
    room: int
    holds: frozenset[int] = frozenset()
    base_model: str = ""

    def fits(self, version: Version) -> bool:
        """Whether the version is of this worker's base model."""
        return not self.base_model or model_name(self.base_model) == model_name(version.base_model)


def by_need(
    snapshot: Snapshot,
    demand: Demand,
    room: int,
    warm_s: float,
    fits: Callable[[Version], bool] = lambda version: True,
) -> tuple[Version, ...]:
    """Give all versions that workers may hold, merged models too, the most needed first.

    Pinned ones come first; then fallbacks, what a rollout needs, and for `warm_s` after an alias
    has moved what a rollback would need; then unproven ones, the newest first, for a share of
    `room` (that of all workers), which is no use to those that none of them `fits`; then the rest
    by last use. A load counts as a use while it is younger than `HOLD_S`: a version is not taken
    away before the calls that it was loaded for.
    """
    loaded: dict[int, float] = {}
    for (_, version_id), at in demand.checked_at.items():
        if demand.now - at < HOLD_S:
            loaded[version_id] = max(at, loaded.get(version_id, 0.0))
    warm = _warm(snapshot, demand.now - warm_s)
    versions = [
        version
        for version in snapshot.versions.values()
        if not version.is_base and not version.draining and version.state in RESIDENT
    ]
    loadable = (v.id for v in versions if v.state in UNPROVEN and not v.is_merged and fits(v))
    unproven = sorted(loadable, reverse=True)
    trying = frozenset(unproven[: max(1, room // UNPROVEN_SHARE)])

    def need(version: Version) -> tuple[int, float, int]:
        used = max(demand.used_at.get(version.id, 0.0), loaded.get(version.id, 0.0))
        if version.pinned:
            tier = 0
        elif version.id in warm:
            tier = 1
        elif version.id in trying:
            tier = 2
        else:
            tier = 3 if version.state not in UNPROVEN else 4
        return tier, -used, -version.id

    return tuple(sorted(versions, key=need))


def _warm(snapshot: Snapshot, since: float) -> set[int]:
    """Ids of the versions that callers are led to or could be led to at any moment."""
    warm: set[int] = set()
    for alias in snapshot.aliases.values():
        if alias.candidate is not None or alias.moved_at > since:
            led_to = (alias.stable, alias.candidate, alias.previous)
            warm.update(version.id for version in led_to if version is not None)
        warm.update(version.id for version in snapshot.fallbacks(alias))
    return warm


def place(
    ranked: Sequence[Version],
    sites: Iterable[Site],
    avoid: Collection[tuple[str, int]] = frozenset(),
) -> dict[str, tuple[Version, ...]]:
    """Give for each worker the versions that it should hold, the most needed first.

    `ranked` are versions in order of need. Each gets one replica, pinned ones as many as they are
    pinned to, until the room is full; what is left goes to further replicas. What is somewhere
    stays there while that is allowed; a new home is the heaviest by rendezvous among workers with
    room. `avoid` are (worker, version id) that have failed: a replica there is not counted on.
    """
    sharing = _Sharing(ranked, sites, avoid)
    for _ in range(_ROUNDS):
        before, sharing = sharing, sharing.settled()
        if sharing.given == before.given:
            break
    return {
        name: tuple(sorted((sharing.versions[i] for i in given), key=sharing.rank))
        for name, given in sharing.given.items()
    }


class _Sharing:
    """The room of all workers while it is shared out."""

    def __init__(
        self,
        ranked: Sequence[Version],
        sites: Iterable[Site],
        avoid: Collection[tuple[str, int]],
    ) -> None:
        self.sites = {site.name: site for site in sites if site.room > 0}
        self._ranked = ranked
        self.versions = {version.id: version for version in ranked}
        self.given: dict[str, set[int]] = {name: set() for name in self.sites}
        self._order = {version.id: at for at, version in enumerate(ranked)}
        self._last = -1  # the rank of the last version that a place was counted on for
        self._avoid = avoid
        self._numbers: dict[int, int] = {}
        self._of_base: dict[str, tuple[str, ...]] = {}
        self._where: dict[int, list[str]] = {}
        for site in self.sites.values():
            for version_id in site.holds & self.versions.keys():
                if site.name in self._hosts(self.versions[version_id]):
                    self._where.setdefault(version_id, []).append(site.name)
        self._reserve()
        self._house_all()
        self._keep_further()
        self._add_further()

    def settled(self) -> _Sharing:
        """Share out anew as if every worker held what it was given."""
        held = [
            replace(site, holds=frozenset(self.given[name])) for name, site in self.sites.items()
        ]
        return _Sharing(self._ranked, held, self._avoid)

    def rank(self, version: Version) -> int:
        """A version's place in the order of need."""
        return self._order[version.id]

    def _reserve(self) -> None:
        """Let those that will have a place keep the ones they have."""
        left = sum(site.room for site in self.sites.values())
        for version in self.versions.values():
            if left <= 0:
                return
            wanted = min(self._wanted(version), left)
            left -= wanted
            self._last = self.rank(version)
            homes = [w for w in self._where.get(version.id, ()) if self._counts(w, version)]
            for name in self._heaviest(version, homes):
                if wanted and self._free(name):
                    self.given[name].add(version.id)
                    wanted -= 1

    def _house_all(self) -> None:
        """Find the homes that versions still lack, in order of need, until the room is full."""
        for version in self.versions.values():
            if self.rank(version) > self._last and not any(map(self._free, self.given)):
                return
            self._house(version)

    def _house(self, version: Version) -> None:
        """Find a version's homes, if need be in the place of one less needed."""
        missing = self._wanted(version) - sum(
            version.id in given and self._counts(name, version)
            for name, given in self.given.items()
        )
        for _ in range(missing):
            others = [name for name in self._hosts(version) if version.id not in self.given[name]]
            fit = [name for name in others if self._counts(name, version)]
            if not (name := self._roomy(version, fit) or self._cleared(version, fit)):
                # It failed wherever there is room: better to try again there than nowhere.
                name = "" if self._is_placed(version) else self._roomy(version, others)
            if not name:
                return
            self.given[name].add(version.id)

    def _keep_further(self) -> None:
        """Let replicas beyond those that are needed stay where there is room."""
        for version in self.versions.values():
            for name in self._where.get(version.id, ()):
                if self._free(name) and self._is_placed(version):
                    self.given[name].add(version.id)

    def _add_further(self) -> None:
        """Fill the room that is left: a second replica for each in order of need, then a third."""
        for copies in range(1, len(self.sites)):
            for version in self.versions.values():
                if not any(map(self._free, self.given)):
                    return
                hosts = self._hosts(version)
                lacking = [name for name in hosts if version.id not in self.given[name]]
                if len(hosts) - len(lacking) != copies:
                    continue
                fit = [name for name in lacking if self._counts(name, version)]
                if name := self._roomy(version, fit) or self._roomy(version, lacking):
                    self.given[name].add(version.id)

    def _wanted(self, version: Version) -> int:
        return min(max(1, version.pinned), len(self._hosts(version)))

    def _hosts(self, version: Version) -> tuple[str, ...]:
        """The workers of the version's base model."""
        hosts = self._of_base.get(version.base_model)
        if hosts is None:
            hosts = tuple(site.name for site in self.sites.values() if site.fits(version))
            self._of_base[version.base_model] = hosts
        return hosts

    def _counts(self, name: str, version: Version) -> bool:
        return (name, version.id) not in self._avoid

    def _is_placed(self, version: Version) -> bool:
        return any(version.id in given for given in self.given.values())

    def _free(self, name: str) -> bool:
        return len(self.given[name]) < self.sites[name].room

    def _roomy(self, version: Version, names: Iterable[str]) -> str:
        return next(iter(self._heaviest(version, filter(self._free, names))), "")

    def _cleared(self, version: Version, names: Iterable[str]) -> str:
        """Take the place of the least needed version, which will look for another one."""
        least, where = max(
            ((self._order[i], name) for name in names for i in self.given[name]),
            default=(-1, ""),
        )
        if least <= self._order[version.id]:
            return ""
        self.given[where] = {i for i in self.given[where] if self._order[i] != least}
        return where

    def _heaviest(self, version: Version, names: Iterable[str]) -> list[str]:
        key = self._numbers.get(version.id)
        if key is None:
            key = self._numbers[version.id] = number(version.worker_name)
        return sorted(names, key=lambda name: weight(key, name), reverse=True)
