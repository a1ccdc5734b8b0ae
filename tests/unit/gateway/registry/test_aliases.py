"""Promote, rollback, rollout and retire: what they allow, and where they lead."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import Conflict, InvalidRequest
from gateway.registry.errors import AliasNotFound, InvalidName, VersionNotFound, VersionNotReady
from gateway.registry.service import Registry
from gateway.registry.snapshot import Alias, VersionState

from .conftest import Shelf


def leads(alias: Alias) -> tuple[int | None, int | None, int | None, float]:
    """Stable, previous and candidate by number, and the candidate's weight."""
    found = [v.number if v is not None else None for v in _three(alias)]
    return (found[0], found[1], found[2], alias.weight)


def _three(alias: Alias) -> tuple[object, ...]:
    return (alias.stable, alias.previous, alias.candidate)


def test_promote_and_roll_back(registry: Registry, shelf: Shelf) -> None:
    for _ in range(3):
        shelf.add()
    assert leads(registry.promote("default", "support", 1)) == (1, None, None, 0)
    assert leads(registry.promote("default", "support", 2)) == (2, 1, None, 0)
    assert leads(registry.rollback("default", "support")) == (1, 2, None, 0)
    assert leads(registry.rollback("default", "support")) == (2, 1, None, 0)
    assert leads(registry.promote("default", "support", 3)) == (3, 2, None, 0)
    alias = registry.promote("default", "support", 1, "ann")
    assert leads(alias) == (1, 3, None, 0)
    assert alias.previous is not None
    assert alias.previous.state is VersionState.SERVING
    moves = registry.describe("default", "support").moves
    assert [(m.kind, m.from_version, m.to_version) for m in moves] == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("rollback", 2, 1),
        ("rollback", 1, 2),
        ("promote", 2, 3),
        ("promote", 3, 1),
    ]
    assert moves[-1].actor == "ann"
    assert registry.snapshot().aliases["default", "support"] == alias


def test_promoting_the_stable_version_again_changes_nothing(
    registry: Registry, shelf: Shelf
) -> None:
    shelf.add()
    shelf.add()
    registry.promote("default", "support", 1)
    registry.promote("default", "support", 2)
    before = registry.revision()
    assert leads(registry.promote("default", "support", 2)) == (2, 1, None, 0)
    assert registry.revision() == before


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (VersionState.REGISTERED, "support@1 is registered and cannot be promoted: wait until"),
        (VersionState.VERIFYING, "support@1 is verifying and cannot be promoted: wait until"),
        (VersionState.REJECTED, "register a corrected adapter"),
        (VersionState.RETIRED, "register its files again"),
    ],
)
def test_what_is_not_verified_is_not_promoted(
    registry: Registry, shelf: Shelf, state: VersionState, advice: str
) -> None:
    version = shelf.add(ready=False)
    registry.set_state(version.id, state)
    with pytest.raises(VersionNotReady, match=advice) as caught:
        registry.promote("default", "support", 1)
    assert caught.value.status == 409


def test_what_is_not_there(registry: Registry, shelf: Shelf) -> None:
    with pytest.raises(AliasNotFound, match="under the name 'nothing'"):
        registry.promote("default", "nothing", 1)
    with pytest.raises(AliasNotFound):
        registry.rollback("default", "nothing")
    with pytest.raises(AliasNotFound):
        registry.describe("default", "nothing")
    shelf.add()
    with pytest.raises(VersionNotFound):
        registry.promote("default", "support", 2)
    with pytest.raises(Conflict, match="no previous version"):
        registry.rollback("default", "support")
    registry.promote("default", "support", 1)
    with pytest.raises(Conflict, match="no previous version"):
        registry.rollback("default", "support")


def test_the_base_model_does_not_move(registry: Registry) -> None:
    for move in (
        lambda: registry.promote("default", "base", 0),
        lambda: registry.rollback("default", "base"),
        lambda: registry.set_rollout("default", "base", 0, 0.5),
        lambda: registry.retire("default", "base", 0),
    ):
        with pytest.raises(Conflict, match="base model"):
            move()


def test_rollout(registry: Registry, shelf: Shelf) -> None:
    for _ in range(3):
        shelf.add()
    with pytest.raises(Conflict, match="no stable version yet to compare with: promote support@2"):
        registry.set_rollout("default", "support", 2, 0.1)
    registry.promote("default", "support", 1)
    with pytest.raises(Conflict, match="is the stable version already"):
        registry.set_rollout("default", "support", 1, 0.1)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequest, match="between 0 and 1"):
            registry.set_rollout("default", "support", 2, weight)
    alias = registry.set_rollout("default", "support", 2, 0.05, "ann", {"steps": [0.05, 1.0]})
    assert leads(alias) == (1, None, 2, 0.05)
    assert alias.candidate is not None
    assert alias.candidate.state is VersionState.CANDIDATE
    assert leads(registry.set_rollout("default", "support", 3, 0.2)) == (1, None, 3, 0.2)
    assert leads(registry.promote("default", "support", 3)) == (3, 1, None, 0)
    moves = registry.describe("default", "support").moves
    assert dict(moves[1].detail) == {"steps": [0.05, 1.0], "weight": 0.05}


def test_rollback_stops_a_rollout_and_nothing_else(registry: Registry, shelf: Shelf) -> None:
    for number in (1, 2):
        shelf.add()
        registry.promote("default", "support", number)
    shelf.add()
    registry.set_rollout("default", "support", 3, 0.5)
    assert leads(registry.rollback("default", "support")) == (2, 1, None, 0)
    last = registry.describe("default", "support").moves[-1]
    assert (last.kind, last.from_version, last.to_version) == ("rollback", 3, 2)
    assert leads(registry.rollback("default", "support")) == (1, 2, None, 0)


def test_promoting_the_stable_version_ends_a_rollout(registry: Registry, shelf: Shelf) -> None:
    shelf.add()
    shelf.add()
    registry.promote("default", "support", 1)
    registry.set_rollout("default", "support", 2, 0.5)
    assert leads(registry.promote("default", "support", 1)) == (1, None, None, 0)


def test_rejecting_a_candidate_ends_its_rollout(registry: Registry, shelf: Shelf) -> None:
    shelf.add()
    candidate = shelf.add()
    registry.promote("default", "support", 1)
    registry.set_rollout("default", "support", 2, 0.5)
    rejected = registry.set_state(candidate.id, VersionState.REJECTED, "no effect")
    assert leads(registry.alias("default", "support")) == (1, None, None, 0)
    assert rejected.draining_since == registry.revision()


@pytest.mark.parametrize(
    ("number", "role"), [(1, "previous"), (2, "stable"), (3, "candidate"), (4, None)]
)
def test_what_an_alias_leads_to_is_not_retired(
    registry: Registry, shelf: Shelf, number: int, role: str | None
) -> None:
    for _ in range(4):
        shelf.add()
    registry.promote("default", "support", 1)
    registry.promote("default", "support", 2)
    registry.set_rollout("default", "support", 3, 0.5)
    if role is None:
        assert registry.retire("default", "support", number).state is VersionState.RETIRED
        assert registry.retire("default", "support", number).state is VersionState.RETIRED
    else:
        with pytest.raises(Conflict, match=f"is the {role} version of 'support'"):
            registry.retire("default", "support", number)


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.integers(1, 3)),
        st.tuples(st.just("rollback"), st.just(0)),
        st.tuples(st.just("rollout"), st.integers(1, 3)),
        st.tuples(st.just("retire"), st.integers(1, 3)),
    ),
    max_size=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_any_sequence_keeps_an_alias_sound(
    registry: Registry, shelf: Shelf, moves: list[tuple[str, int]]
) -> None:
    name = "a" + secrets.token_hex(8)
    for _ in range(3):
        shelf.add(name)
    stable: int | None = None
    previous: int | None = None
    candidate: int | None = None
    revision = registry.revision()
    for kind, number in moves:
        try:
            if kind == "promote":
                registry.promote("default", name, number)
                if number != stable:
                    stable, previous = number, stable
                candidate = None
            elif kind == "rollback":
                registry.rollback("default", name)
                if candidate is None:
                    stable, previous = previous, stable
                candidate = None
            elif kind == "rollout":
                registry.set_rollout("default", name, number, 0.5)
                candidate = number
            else:
                registry.retire("default", name, number)
                assert number not in (stable, previous, candidate)
        except Conflict:
            pass
        alias = registry.alias("default", name)
        expected = (stable, previous, candidate, 0.5 if candidate is not None else 0.0)
        assert leads(alias) == expected
        assert alias.stable is None or alias.stable.state is VersionState.SERVING
        assert all(v is None or not v.draining for v in (alias.stable, alias.previous))
        assert registry.revision() >= revision
        revision = registry.revision()


def test_the_base_is_a_version_of_any_alias(registry: Registry, shelf: Shelf) -> None:
    assert leads(registry.promote("default", "support", 0, "me")) == (0, None, None, 0.0)
    again = registry.revision()
    registry.promote("default", "support", 0, "me")
    assert registry.revision() == again
    assert not registry.has_alias("another", "support")
    shelf.add()
    assert leads(registry.set_rollout("default", "support", 1, 0.2)) == (0, None, 1, 0.2)
    assert leads(registry.promote("default", "support", 1)) == (1, 0, None, 0.0)
    assert leads(registry.rollback("default", "support")) == (0, 1, None, 0.0)
    assert leads(registry.rollback("default", "support")) == (1, 0, None, 0.0)
    assert leads(registry.set_rollout("default", "support", 0, 0.5)) == (1, 0, 0, 0.5)
    assert leads(registry.promote("default", "support", 0)) == (0, 1, None, 0.0)
    moves = registry.describe("default", "support").moves
    assert [(move.kind, move.from_version, move.to_version) for move in moves] == [
        ("promote", None, 0),
        ("rollout", 0, 1),
        ("promote", 0, 1),
        ("rollback", 1, 0),
        ("rollback", 0, 1),
        ("rollout", 1, 0),
        ("promote", 1, 0),
    ]
    assert registry.latest_moves("default", "support", 1) == (moves[-1],)
    with pytest.raises(Conflict):
        registry.promote("default", "base", 0)
    with pytest.raises(InvalidName):
        registry.promote("default", "No Name", 0)
