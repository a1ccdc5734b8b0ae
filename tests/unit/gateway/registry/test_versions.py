"""Versions: numbers, bytes, states, tenants."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection

from gateway.errors import Conflict, GatewayError
from gateway.registry import writes
from gateway.registry.errors import AliasNotFound, InvalidAdapter, InvalidName, VersionNotFound
from gateway.registry.receiving import Draft
from gateway.registry.service import Registry
from gateway.registry.snapshot import BASE_ALIAS, BASE_TENANT, Placement, VersionState

from .adapter_files import BASE, left_in, write_adapter
from .conftest import Clock, Shelf


def test_the_base_model_is_there_for_everyone(registry: Registry) -> None:
    registry.prepare()
    snapshot = registry.snapshot()
    base = snapshot.versions[BASE_TENANT, BASE_ALIAS, 0]
    assert (base.is_base, base.state, base.path) == (True, VersionState.SERVING, "")
    assert snapshot.aliases[BASE_TENANT, BASE_ALIAS].stable == base
    assert registry.alias("anyone", BASE_ALIAS).stable == base
    assert registry.version("anyone", BASE_ALIAS, 0) == base
    assert len(registry.secret()) == 32
    assert registry.secret() == registry.secret()


def test_another_base_model_is_taken_over_at_the_next_start(registry: Registry) -> None:
    before = registry.revision()
    other = Registry(registry._engine, registry.storage, base_model="other")
    other.prepare()
    assert other.version("default", BASE_ALIAS, 0).base_model == "other"
    assert other.revision() == before + 1


def test_registering(registry: Registry, tmp_path: Path, storage: Path, clock: Clock) -> None:
    before = registry.revision()
    source = write_adapter(tmp_path / "a", manifest={"training": {"run": "r1"}})
    added = registry.add("default", "support", source, "ann")
    version = added.version
    assert added.created
    assert (version.model, version.state) == ("support@1", VersionState.REGISTERED)
    assert version.worker_name == f"support@1-{version.sha256[:8]}"
    assert version.path == str(storage / "adapters" / version.sha256)
    assert (version.rank, version.base_model) == (4, BASE)
    assert registry.revision() == before + 1
    assert registry.manifest(version.id)["training"] == {"run": "r1"}
    snapshot = registry.snapshot()
    assert snapshot.revision == before + 1
    assert snapshot.versions["default", "support", 1] == version
    alias = snapshot.aliases["default", "support"]
    assert (alias.stable, alias.previous, alias.candidate, alias.weight) == (None, None, None, 0)
    assert alias.created == int(clock.now)
    (detail,) = registry.describe("default", "support").versions
    assert [(e.state, e.actor, e.at) for e in detail.events] == [
        (VersionState.REGISTERED, "ann", clock.now)
    ]


def test_the_same_bytes_again_are_the_same_version(
    registry: Registry, tmp_path: Path, storage: Path
) -> None:
    source = write_adapter(tmp_path / "a")
    first = registry.add("default", "support", source)
    before = registry.revision(), left_in(storage)
    files = {path.name: io.BytesIO(path.read_bytes()) for path in source.iterdir()}
    again = registry.add("default", "support", files)
    assert (again.created, again.version) == (False, first.version)
    assert (registry.revision(), left_in(storage)) == before
    elsewhere = registry.add("default", "sales", source)
    assert elsewhere.created
    assert elsewhere.version.path == first.version.path


def test_retired_bytes_come_back_as_a_new_version(registry: Registry, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a")
    first = registry.register("default", "support", source)
    registry.retire("default", "support", 1)
    second = registry.add("default", "support", source)
    assert second.created
    assert (second.version.number, second.version.sha256) == (2, first.sha256)


@pytest.mark.parametrize("alias", ["", "../x", "UPPER", "-a", "a" * 64, "a@1", "a/b", "a\n", "é"])
def test_names_that_are_none(registry: Registry, tmp_path: Path, storage: Path, alias: str) -> None:
    with pytest.raises(InvalidName, match="is no alias name"):
        registry.register("default", alias, write_adapter(tmp_path / "a"))
    assert left_in(storage) == []


def test_the_base_models_name_is_taken(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="base model's own name"):
        registry.register("default", "base", write_adapter(tmp_path / "a"))


def test_a_refused_adapter_leaves_nothing(
    registry: Registry, tmp_path: Path, storage: Path
) -> None:
    before = registry.revision()
    with pytest.raises(InvalidAdapter):
        registry.register("default", "support", write_adapter(tmp_path / "a", weights=b""))
    assert left_in(storage) == []
    assert registry.revision() == before
    with pytest.raises(AliasNotFound):
        registry.alias("default", "support")


def test_a_failure_while_recording_leaves_no_files(
    registry: Registry, tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_connection: Connection, *_args: object) -> int:
        raise RuntimeError("lost")

    source = write_adapter(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(writes, "insert_version", fail)
        with pytest.raises(RuntimeError, match="lost"):
            registry.register("default", "support", source)
    assert left_in(storage) == ["adapters"]
    assert registry.register("default", "support", tmp_path / "a").number == 1


def test_files_that_a_failing_twin_took_back_are_asked_for_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin kept them first, failed, and discards them before this one has recorded anything."""
    keep = registry.storage.keep

    def keep_and_lose(draft: Draft) -> tuple[str, bool]:
        key, _ = keep(draft)
        registry.storage.discard(key)
        return key, False

    source = write_adapter(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(registry.storage, "keep", keep_and_lose)
        with pytest.raises(Conflict, match="send them again"):
            registry.register("default", "support", source)
    with pytest.raises(AliasNotFound):
        registry.alias("default", "support")
    assert registry.register("default", "support", source).number == 1


def test_a_failure_spares_files_that_another_version_has(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_adapter(tmp_path / "a")
    kept = Path(registry.register("default", "support", source).path)

    def fail(_connection: Connection, *_args: object) -> int:
        raise RuntimeError("lost")

    monkeypatch.setattr(writes, "insert_version", fail)
    with pytest.raises(RuntimeError, match="lost"):
        registry.register("default", "sales", source)
    assert kept.is_dir()


def test_numbers_are_unique_under_threads(registry: Registry, tmp_path: Path) -> None:
    sources = [write_adapter(tmp_path / f"a{fill % 12}", fill=fill % 12) for fill in range(24)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda source: registry.add("default", "support", source), sources))
    assert sum(one.created for one in added) == 12
    assert sorted({one.version.number for one in added}) == list(range(1, 13))
    assert len({one.version.sha256 for one in added}) == 12
    assert len({(one.version.number, one.version.sha256) for one in added}) == 12


def test_tenants_do_not_meet(registry: Registry, shelf: Shelf) -> None:
    mine, theirs = shelf.add(tenant="a"), shelf.add(tenant="b")
    assert (mine.number, theirs.number) == (1, 1)
    registry.promote("a", "support", 1)
    assert registry.alias("b", "support").stable is None
    assert [alias.name for alias, _ in registry.overview("c")] == ["base"]
    with pytest.raises(AliasNotFound):
        registry.promote("c", "support", 1)
    with pytest.raises(VersionNotFound):
        registry.version("c", "support", 1)
    with pytest.raises(VersionNotFound):
        registry.retire("c", "support", 1)


S = VersionState


@pytest.mark.parametrize(
    ("way", "allowed"),
    [
        ([S.VERIFYING, S.CANDIDATE, S.SERVING, S.RETIRED], True),
        ([S.VERIFYING, S.REGISTERED, S.VERIFYING, S.REJECTED, S.VERIFYING, S.CANDIDATE], True),
        ([S.CANDIDATE, S.VERIFYING, S.REJECTED, S.RETIRED], True),
        ([S.SERVING], False),
        ([S.CANDIDATE, S.REGISTERED], False),
        ([S.CANDIDATE, S.SERVING, S.REJECTED], False),
        ([S.REJECTED, S.CANDIDATE], False),
        ([S.RETIRED, S.VERIFYING], False),
    ],
)
def test_states_follow_their_order(
    registry: Registry, shelf: Shelf, way: list[VersionState], allowed: bool
) -> None:
    version = shelf.add(ready=False)
    for state in way[:-1]:
        assert registry.set_state(version.id, state, "so", "test").state is state
    if allowed:
        assert registry.set_state(version.id, way[-1]).state is way[-1]
        (detail,) = registry.describe("default", "support").versions
        assert [event.state for event in detail.events] == [S.REGISTERED, *way]
    else:
        with pytest.raises(Conflict, match="cannot become"):
            registry.set_state(version.id, way[-1])


def test_the_same_state_again_is_not_recorded(registry: Registry, shelf: Shelf) -> None:
    version = shelf.add()
    before = registry.revision()
    registry.set_state(version.id, S.CANDIDATE, "again")
    assert registry.revision() == before


def test_the_base_models_state_is_fixed(registry: Registry) -> None:
    base = registry.version("default", "base", 0)
    with pytest.raises(Conflict, match="base model"):
        registry.set_state(base.id, S.RETIRED)
    with pytest.raises(VersionNotFound):
        registry.set_state(999, S.RETIRED)


@pytest.mark.parametrize("end", [S.RETIRED, S.REJECTED])
def test_what_has_ended_drains_from_that_revision_on(
    registry: Registry, shelf: Shelf, end: VersionState
) -> None:
    version = shelf.add()
    ended = registry.set_state(version.id, end)
    assert ended.draining
    assert ended.draining_since == registry.revision()
    if end is S.REJECTED:
        again = registry.set_state(version.id, S.VERIFYING)
        assert (again.draining, again.draining_since) == (False, None)


def test_retired_versions_leave_the_snapshot_once_no_worker_has_them(
    registry: Registry, shelf: Shelf
) -> None:
    version = shelf.add()
    registry.record_placement(Placement("w", version.id, "boot", None))
    registry.retire("default", "support", 1, "ann", "old")
    assert registry.snapshot().versions["default", "support", 1].draining
    registry.drop_placements("w", [version.id])
    assert ("default", "support", 1) not in registry.snapshot().versions
    assert registry.version("default", "support", 1).state is S.RETIRED


def test_references(registry: Registry, shelf: Shelf, tmp_path: Path) -> None:
    version = shelf.add()
    assert registry.reference(version.id) is None
    assert registry.adopt_reference(version.id, {"measured": 1}, "w1")
    assert not registry.adopt_reference(version.id, {"measured": 2}, "w2")
    assert registry.reference(version.id) == {"measured": 1}
    with pytest.raises(VersionNotFound):
        registry.adopt_reference(999, {}, "w1")
    with pytest.raises(VersionNotFound):
        registry.manifest(999)


def test_every_error_has_a_body(registry: Registry) -> None:
    with pytest.raises(GatewayError) as caught:
        registry.version("default", "support", 7)
    assert caught.value.body["error"]["code"] == "model_not_found"
    assert "no version 7 of 'support'" in caught.value.message
