"""What every worker should hold, by the registry and by what was seen."""

from __future__ import annotations

from dataclasses import replace

from gateway.controller.view import View
from gateway.registry.records import Demand
from gateway.registry.snapshot import Snapshot, VersionState
from gateway.settings import PlacementSettings
from gateway.workers.probe import Observed
from tests.unit.gateway.workers.fake import version


def test_a_version_whose_base_has_no_worker_holds_up_no_other_proof() -> None:
    used = [version(i, state=VersionState.CANDIDATE) for i in range(1, 5)]
    new, away = version(5), replace(version(6), base_model="another")
    versions = {(v.tenant, v.alias, v.number): v for v in (*used, new, away)}
    names = frozenset(v.worker_name for v in used)
    seen = Observed(
        "w",
        healthy=True,
        names=names | {"base"},
        bases=frozenset({"base"}),
        base_model=new.base_model,
    )
    demand = Demand(100.0, {v.id: float(v.id) for v in used}, {})
    snapshot = Snapshot(1, {}, {}, versions, {})
    view = View.of(snapshot, demand, [seen], 4, PlacementSettings())
    assert view.unproven() == {new}
