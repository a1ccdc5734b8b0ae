"""What one pass of the controller goes by: the registry and the workers, brought together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gateway.controller.desired import site
from gateway.controller.placement import UNPROVEN, by_need, place
from gateway.registry.records import Demand
from gateway.registry.snapshot import Placement, Snapshot, Version
from gateway.settings import PlacementSettings
from gateway.workers.probe import Observed


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot, and by worker what it has, should have, and has to prove again.

    `placed` gives placements by version id, `aged` the ids of versions whose proof is old.
    """

    snapshot: Snapshot
    versions: Mapping[int, Version]
    placed: Mapping[str, Mapping[int, Placement]]
    wanted: Mapping[str, tuple[Version, ...]]
    aged: Mapping[str, Collection[int]]

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        demand: Demand,
        observed: Iterable[Observed],
        max_cpu_loras: int,
        settings: PlacementSettings,
        avoid: Collection[tuple[str, int]] = (),
    ) -> View:
        """Work out what every healthy worker should hold; `avoid` is as in `place`.

        A static worker, and one that was started with a merged model, should hold what it was
        started with, as far as that is still needed.
        """
        versions = {version.id: version for version in snapshot.versions.values()}
        ids = {version.worker_name: version.id for version in versions.values()}
        placed: defaultdict[str, dict[int, Placement]] = defaultdict(dict)
        for placements in snapshot.placements.values():
            for placement in placements:
                placed[placement.worker][placement.version_id] = placement
        healthy = [seen for seen in observed if seen.healthy]
        sites = [
            site(seen, max_cpu_loras, placed.get(seen.worker, {}), ids)
            for seen in healthy
            if not seen.static and not seen.merged
        ]
        roomy = [site for site in sites if site.room > 0]

        def fits(version: Version) -> bool:
            return any(site.fits(version) for site in roomy)

        ranked = by_need(snapshot, demand, sum(s.room for s in roomy), settings.warm, fits)
        aged: defaultdict[str, set[int]] = defaultdict(set)
        for (worker, version_id), at in demand.checked_at.items():
            if demand.now - at > settings.proof_interval:
                aged[worker].add(version_id)
        wanted = place([version for version in ranked if not version.is_merged], sites, avoid)
        for seen in healthy:
            if seen.static or seen.merged:
                wanted[seen.worker] = tuple(version for version in ranked if seen.fits(version))
        return cls(snapshot, versions, placed, wanted, aged)

    def unproven(self) -> set[Version]:
        """The versions without a proof that some worker should hold."""
        return {v for versions in self.wanted.values() for v in versions if v.state in UNPROVEN}
