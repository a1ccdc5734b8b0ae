"""An alias leads to one version; a rollout sticks to its callers."""

import itertools
from dataclasses import replace
from types import MappingProxyType

import pytest

from gateway.errors import ModelNotFound, NoWorker
from gateway.registry.snapshot import Alias, Key, Snapshot, Version, VersionState, WorkerSpec
from gateway.serving.resolve import alias_of, resolve, shadow_of

KEY = Key(1, "acme", "acme", "app", None, None)


def version(number: int, state: VersionState = VersionState.SERVING, **more: object) -> Version:
    return Version(
        id=number,
        tenant="acme",
        alias="support",
        number=number,
        sha256=f"{number:064x}",
        path="",
        base_model="m",
        rank=8,
        state=state,
        **more,
    )


def snapshot(*versions: Version, **alias: object) -> Snapshot:
    entry = Alias(**{"name": "support", "tenant": "acme", "stable": None, **alias})
    return Snapshot(
        revision=1,
        keys={},
        aliases=MappingProxyType({("acme", "support"): entry}),
        versions=MappingProxyType({("acme", "support", v.number): v for v in versions}),
        workers={},
    )


def call(name: str, held: Snapshot, session: str | None = None, key: Key = KEY) -> Version:
    return resolve(name, alias_of(name, key, held), session, held)


def test_an_alias_leads_to_its_stable_version() -> None:
    assert call("support", snapshot(version(1), stable=version(1))).number == 1


def test_a_version_can_be_pinned() -> None:
    held = snapshot(version(1), version(2, VersionState.CANDIDATE), stable=version(1))
    assert call("support@2", held).number == 2


@pytest.mark.parametrize("name", ["other", "support@9", "support@x", "support@", "support@-1"])
def test_what_does_not_exist_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        call(name, snapshot(version(1), stable=version(1)))


def test_other_tenants_and_forbidden_aliases_look_the_same_as_missing_ones() -> None:
    held = snapshot(version(1), stable=version(1))
    for key in (
        Key(2, "other", "x", "app", None, None),
        Key(3, "acme", "x", "app", frozenset({"base"}), None),
    ):
        with pytest.raises(ModelNotFound):
            call("support", held, key=key)


def test_retired_rejected_and_draining_versions_cannot_be_called() -> None:
    held = snapshot(
        version(1, VersionState.RETIRED),
        version(2, VersionState.REJECTED),
        version(3, draining=True),
    )
    for number in (1, 2, 3):
        with pytest.raises(ModelNotFound):
            call(f"support@{number}", held)


def test_a_version_that_is_still_verified_is_a_wait_not_a_404() -> None:
    with pytest.raises(NoWorker):
        call("support@1", snapshot(version(1, VersionState.VERIFYING)))


def test_a_version_that_no_worker_was_started_with_says_why() -> None:
    held = snapshot(waits := version(1, VersionState.REGISTERED))
    left_out = ((waits.worker_name, "of another family"),)
    workers = {n: WorkerSpec(n, f"http://{n}", "llamacpp", left_out=left_out) for n in ("a", "b")}
    with pytest.raises(NoWorker) as told:
        call("support@1", replace(held, workers=workers))
    assert told.value.message == (
        "The model 'support@1' is on no worker yet. A worker of kind llamacpp runs without it:"
        " of another family"
    )


def test_a_rollout_is_sticky_and_a_higher_weight_only_moves_callers_to_the_candidate() -> None:
    stable, candidate = version(1), version(2, VersionState.CANDIDATE)
    sessions = [f"user-{number}" for number in range(400)]
    moved: list[set[str]] = []
    for weight in (0.0, 0.1, 0.5, 1.0):
        held = snapshot(stable, candidate, stable=stable, candidate=candidate, weight=weight)
        chosen = {s for s in sessions if call("support", held, s).number == 2}
        assert chosen == {s for s in sessions if call("support", held, s).number == 2}
        assert abs(len(chosen) / len(sessions) - weight) < 0.08
        moved.append(chosen)
    for smaller, larger in itertools.pairwise(moved):
        assert smaller <= larger


def test_each_candidate_has_callers_of_its_own() -> None:
    stable, sessions = version(1), [f"user-{number}" for number in range(1000)]
    chosen: list[set[str]] = []
    for number in (2, 3):
        new = version(number, VersionState.CANDIDATE)
        held = snapshot(stable, new, stable=stable, candidate=new, weight=0.1)
        chosen.append({s for s in sessions if call("support", held, s).number == number})
    assert len(chosen[0] & chosen[1]) < 0.4 * len(chosen[1])


def test_the_base_answers_for_an_alias() -> None:
    base = replace(version(0), tenant="*", alias="base")
    held = snapshot(version(1), stable=base, candidate=version(1), weight=0.5)
    assert call("support", replace_weight(held, 0.0)).is_base
    assert not call("support", replace_weight(held, 1.0)).is_base
    assert call("support@0", held) is base
    with pytest.raises(ModelNotFound):  # it never led there
        call("support@0", snapshot(version(1), stable=version(1)))


def replace_weight(held: Snapshot, weight: float) -> Snapshot:
    ((place, alias),) = held.aliases.items()
    return replace(held, aliases={place: replace(alias, weight=weight)})


def test_a_share_of_the_aliases_own_calls_is_copied() -> None:
    stable, candidate = version(1), version(2, VersionState.CANDIDATE)
    evaluates = replace(KEY, purpose="evaluation")

    def copied(name: str, answers: Version, key: Key = KEY, share: float = 1.0) -> Version | None:
        held = snapshot(stable, candidate, stable=stable, candidate=candidate, shadow=share)
        return shadow_of(name, alias_of(name, key, held), answers, key)

    assert copied("support", stable) is candidate
    assert copied("support@1", stable) is None
    assert copied("support", candidate) is None
    assert copied("support", stable, evaluates) is None
    often = sum(copied("support", stable, share=0.25) is not None for _ in range(4000))
    assert 800 < often < 1200
    for session in ("a", "b", "c"):  # and no caller gets the candidate
        held = snapshot(stable, candidate, stable=stable, candidate=candidate, shadow=1.0)
        assert call("support", held, session) is stable
