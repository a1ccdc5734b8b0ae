"""Options of aliases: replaced as a whole, recorded, and never a chain in a circle."""

from __future__ import annotations

import secrets
from graphlib import CycleError, TopologicalSorter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import Conflict, InvalidRequest
from gateway.registry.errors import AliasNotFound
from gateway.registry.service import Registry
from gateway.registry.snapshot import NO_OPTIONS, AliasOptions, VersionState

from .conftest import Shelf

T = "default"


def falls_back(*chain: str) -> AliasOptions:
    return AliasOptions(fallback=chain)


def test_options_are_kept_seen_and_recorded(registry: Registry, shelf: Shelf) -> None:
    shelf.add()
    assert registry.alias(T, "support").options is NO_OPTIONS
    wanted = AliasOptions(temperature=0.0, stop=("END", "\n"), system_prompt="Be kind.")
    before = registry.revision()
    registry.set_options(T, "support", wanted, "ann")
    assert registry.revision() == before + 1
    assert registry.snapshot().aliases[T, "support"].options == wanted
    registry.set_options(T, "support", wanted, "bob")  # the same again
    assert registry.revision() == before + 1
    registry.set_options(T, "support", AliasOptions(seed=1), "bob")
    first, second = registry.describe(T, "support").record
    assert (first.kind, first.actor, first.detail["before"]) == ("options", "ann", {})
    assert first.detail["after"] == wanted.given == second.detail["before"]
    assert second.detail["after"] == {"seed": 1}
    registry.set_options(T, "support", NO_OPTIONS)
    assert registry.alias(T, "support").options is NO_OPTIONS


def test_new_options_leave_a_rollout_alone(registry: Registry, shelf: Shelf) -> None:
    for _ in range(2):
        shelf.add()
    registry.promote(T, "support", 1)
    registry.set_rollout(T, "support", 2, 0.1, detail={"driven": True})
    (begun,) = registry.latest_moves(T, "support", 1)
    registry.set_options(T, "support", AliasOptions(seed=1))
    assert registry.latest_moves(T, "support", 1) == (begun,)
    alias = registry.alias(T, "support")
    assert (alias.weight, alias.options.seed) == (0.1, 1)
    assert registry.drive_rollout(alias, 2, begun, 1.0, actor="controller", detail={})
    assert registry.alias(T, "support").options.seed == 1


def test_chains_that_are_refused(registry: Registry, shelf: Shelf) -> None:
    for alias in ("support", "triage", "sales"):
        shelf.add(alias)
    shelf.add("secret", tenant="other")
    retired = shelf.add()
    registry.set_state(retired.id, VersionState.RETIRED)
    registry.set_options(T, "triage", falls_back("sales@1", "base"))
    registry.set_options(T, "sales", falls_back("support"))
    for chain, said in (
        (("support",), "circle"),
        (("triage",), "triage -> sales"),
        (("base", "base"), "'base' twice"),
        (("nobody",), "no alias 'nobody'"),
        (("secret",), "no alias 'secret'"),
        (("triage@9",), "no such version"),
        (("support@0",), "the base model is 'base'"),
        (("triage@x",), "write it as"),
        (("support@2",), "is retired"),
        (("base", "base@0", "support@1", "triage@1", "sales@1"), "4 are the most"),
    ):
        with pytest.raises(InvalidRequest, match=said) as caught:
            registry.set_options(T, "support", falls_back(*chain))
        assert caught.value.param == "fallback"
    registry.set_options(T, "support", falls_back("support@1", "base"))
    assert registry.alias(T, "support").options == falls_back("support@1", "base")


def test_who_has_no_options(registry: Registry) -> None:
    with pytest.raises(Conflict, match="belongs to every tenant"):
        registry.set_options(T, "base", AliasOptions(seed=1))
    with pytest.raises(AliasNotFound):
        registry.set_options(T, "nothing", AliasOptions(seed=1))


def test_who_may_answer_now(registry: Registry, shelf: Shelf) -> None:
    first, second = shelf.add(), shelf.add()
    triage = shelf.add("triage")
    registry.promote(T, "support", 2)
    registry.set_options(T, "support", falls_back("triage", "support@1", "base"))

    def now() -> list[str]:
        snapshot = registry.snapshot()
        return [v.model for v in snapshot.fallbacks(snapshot.aliases[T, "support"])]

    assert now() == ["support@1", "base@0"]  # triage leads nowhere yet
    registry.promote(T, "triage", triage.number)
    assert now() == ["triage@1", "support@1", "base@0"]
    registry.set_state(first.id, VersionState.RETIRED)
    assert now() == ["triage@1", "base@0"]
    assert second.number == 2


NAMES = ("a", "b", "c", "d")


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), unique=True, max_size=3)
        ),
        max_size=6,
    )
)
def test_no_order_of_changes_makes_a_circle(
    registry: Registry, changes: list[tuple[str, list[str]]]
) -> None:
    tenant = f"t{secrets.token_hex(4)}"
    for name in NAMES:
        registry.promote(tenant, name, 0)
    kept: dict[str, list[str]] = {}
    for name, chain in changes:
        try:
            registry.set_options(tenant, name, falls_back(*chain))
        except InvalidRequest:
            with pytest.raises(CycleError):
                TopologicalSorter(kept | {name: chain}).prepare()
        else:
            kept[name] = chain
            TopologicalSorter(kept).prepare()
