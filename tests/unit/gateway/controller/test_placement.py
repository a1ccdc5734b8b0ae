"""Who is most needed, and who goes where: examples, and what holds for every fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.controller.placement import HOLD_S, Site, by_need, place
from gateway.registry.records import Demand
from gateway.registry.snapshot import Alias, AliasOptions, Snapshot, Version, VersionState
from tests.unit.gateway.workers.fake import base_version, version

NOW = 10_000.0
Placed = Mapping[str, tuple[Version, ...]]


def candidates(count: int) -> list[Version]:
    return [version(i, state=VersionState.CANDIDATE) for i in range(1, count + 1)]


def need(
    versions: Sequence[Version],
    *aliases: Alias,
    used: Mapping[int, float] | None = None,
    loaded: Mapping[tuple[str, int], float] | None = None,
    room: int = 8,
    fits: Callable[[Version], bool] = lambda version: True,
) -> list[int]:
    """The ids in order of need; without `used`, a higher id was used more recently."""
    snapshot = Snapshot(
        revision=1,
        keys={},
        aliases={(a.tenant, a.name): a for a in aliases},
        versions={(v.tenant, v.alias, v.number): v for v in versions},
        workers={},
    )
    used = {v.id: float(v.id) for v in versions} if used is None else used
    demand = Demand(NOW, used, loaded or {})
    return [v.id for v in by_need(snapshot, demand, room, 600.0, fits)]


def fleet(workers: int, room: int) -> list[Site]:
    return [Site(f"w{i}", room) for i in range(workers)]


def ids(placed: Placed) -> dict[str, set[int]]:
    return {name: {v.id for v in versions} for name, versions in placed.items()}


def holding(sites: Sequence[Site], placed: Placed) -> list[Site]:
    """The same workers, holding what they were given."""
    held = ids(placed)
    return [replace(site, holds=frozenset(held.get(site.name, ()))) for site in sites]


def moves(before: Placed, after: Placed) -> int:
    """How many loads it takes to get from one to the other."""
    old, new = ids(before), ids(after)
    return sum(len(new[name] - old.get(name, set())) for name in new)


class TestNeed:
    def test_the_last_used_come_first(self) -> None:
        assert need(candidates(3), used={1: 30.0, 2: 10.0, 3: 20.0}) == [1, 3, 2]

    def test_pins_come_first_then_what_a_rollout_needs(self) -> None:
        one, two, three, four, five = candidates(5)
        rolling = Alias("a", "default", two, one, three, 0.1)
        pinned = replace(five, pinned=1)
        assert need([one, two, three, four, pinned], rolling) == [5, 3, 2, 1, 4]

    def test_fallbacks_are_held_ready(self) -> None:
        options = AliasOptions(fallback=("base", "support@1", "support@9"))
        alias = Alias("support", "default", None, options=options)
        assert need([base_version(), *candidates(3)], alias) == [1, 3, 2]

    def test_a_promote_keeps_both_versions_warm_for_a_while(self) -> None:
        one, two, three = candidates(3)
        fresh = Alias("a", "default", two, one, moved_at=NOW - 599)
        assert need([one, two, three], fresh) == [2, 1, 3]
        assert need([one, two, three], replace(fresh, moved_at=NOW - 601)) == [3, 2, 1]

    def test_unproven_versions_get_a_quarter_of_the_room(self) -> None:
        used, new = candidates(4), [version(i) for i in range(5, 9)]
        assert need([*used, *new], room=8) == [8, 7, 4, 3, 2, 1, 6, 5]

    def test_one_that_no_worker_fits_takes_no_part_of_that(self) -> None:
        """Its base has no worker, perhaps never will: the others are to be proven meanwhile."""
        used, new = candidates(4), [version(5), version(6)]
        away = replace(version(7), base_model="another")
        found = need([*used, *new, away], room=4, fits=lambda v: v.base_model != "another")
        assert found == [6, 4, 3, 2, 1, 7, 5]

    def test_a_load_counts_as_a_use_for_a_moment(self) -> None:
        used = {1: NOW - 9, 2: NOW - 5}
        assert need(candidates(2), used=used) == [2, 1]
        assert need(candidates(2), used=used, loaded={("w0", 1): NOW - 1}) == [1, 2]
        assert need(candidates(2), used={**used, 2: NOW}, loaded={("w0", 1): NOW - 1}) == [2, 1]
        assert need(candidates(2), used=used, loaded={("w0", 1): NOW - HOLD_S}) == [2, 1]

    @given(st.lists(st.sampled_from(VersionState), max_size=12))
    def test_only_what_may_be_called_or_proven_is_needed(self, states: list[VersionState]) -> None:
        versions = [version(i + 1, state=state) for i, state in enumerate(states)]
        ended = (VersionState.RETIRED, VersionState.REJECTED)
        found = need([base_version(), *versions, version(99, draining_since=4)])
        assert sorted(found) == [v.id for v in versions if v.state not in ended]


pins = st.dictionaries(st.integers(1, 14), st.integers(1, 4), max_size=3)
rooms = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Version], list[Site]]:
    """Versions in some order of need, and workers that already hold some of them."""
    count = draw(st.integers(0, 14))
    pinned = draw(pins)
    versions = [replace(v, pinned=pinned.get(v.id, 0)) for v in candidates(count)]
    ranked = sorted(draw(st.permutations(versions)), key=lambda v: v.pinned == 0)
    some = st.frozensets(st.integers(1, 16), max_size=5)
    sites = [Site(f"w{i}", room, draw(some)) for i, room in enumerate(draw(rooms))]
    return ranked, sites


avoided = st.frozensets(st.tuples(st.sampled_from(["w0", "w1"]), st.integers(1, 14)), max_size=6)


class TestPlaces:
    @given(cases(), avoided)
    def test_no_worker_gets_more_than_it_has_room_for(
        self, case: tuple[list[Version], list[Site]], avoid: frozenset[tuple[str, int]]
    ) -> None:
        ranked, sites = case
        placed = place(ranked, sites, avoid)
        for site in sites:
            given_ = [v.id for v in placed.get(site.name, ())]
            assert len(given_) <= site.room
            assert len(set(given_)) == len(given_)
            assert given_ == [v.id for v in ranked if v.id in given_], "in order of need"

    @given(cases(), avoided)
    def test_versions_go_only_to_workers_of_their_base(
        self, case: tuple[list[Version], list[Site]], avoid: frozenset[tuple[str, int]]
    ) -> None:
        ranked = [replace(v, base_model=("one", "two")[v.id % 2]) for v in case[0]]
        sites = [
            replace(site, base_model=("one", "org/two", "")[at % 3])
            for at, site in enumerate(case[1])
        ]
        placed = place(ranked, sites, avoid)
        for site in sites:
            assert all(site.fits(v) for v in placed.get(site.name, ()))
        housed = {v.id for versions in placed.values() for v in versions}
        room = {site.name: site.room - len(placed.get(site.name, ())) for site in sites}
        for v in ranked:
            free = [site for site in sites if site.fits(v) and room[site.name] > 0]
            assert v.id in housed or not free

    @given(cases())
    def test_the_most_needed_are_resident(self, case: tuple[list[Version], list[Site]]) -> None:
        ranked, sites = case
        placed, workers = ids(place(ranked, sites)), sum(site.room > 0 for site in sites)
        left = sum(site.room for site in sites)
        for v in ranked:
            wanted = min(max(v.pinned, 1), workers, left)
            left -= wanted
            got = sum(v.id in given_ for given_ in placed.values())
            # Two pins may need the same worker's last slot: then the more needed one has it.
            assert got >= (wanted if v.pinned <= 1 else min(wanted, 1)), (v.id, placed)

    @given(cases(), avoided)
    def test_what_is_as_it_should_be_stays(
        self, case: tuple[list[Version], list[Site]], avoid: frozenset[tuple[str, int]]
    ) -> None:
        ranked, sites = case
        placed = place(ranked, sites, avoid)
        assert ids(place(ranked, holding(sites, placed), avoid)) == ids(placed)

    @given(st.integers(0, 6), st.integers(1, 5), st.integers(6, 8))
    def test_with_few_versions_every_worker_holds_all(
        self, count: int, workers: int, room: int
    ) -> None:
        every = set(range(1, count + 1))
        placed = place(candidates(count), fleet(workers, room))
        assert ids(placed) == {f"w{i}": every for i in range(workers)}

    @given(st.integers(1, 4), st.permutations(range(1, 31)))
    def test_with_many_versions_the_last_used_are_there_once(
        self, workers: int, order: list[int]
    ) -> None:
        by_id = {v.id: v for v in candidates(30)}
        ranked = [by_id[i] for i in order]
        placed = place(ranked, fleet(workers, 4))
        resident = sorted(i for given_ in ids(placed).values() for i in given_)
        assert resident == sorted(order[: 4 * workers])

    @given(st.permutations(range(1, 41)), st.integers(1, 40))
    def test_a_call_moves_at_most_one(self, order: list[int], called: int) -> None:
        by_id = {v.id: v for v in candidates(40)}
        ranked, sites = [by_id[i] for i in order], fleet(4, 4)
        before = place(ranked, sites)
        later = [by_id[called], *(v for v in ranked if v.id != called)]
        after = place(later, holding(sites, before))
        assert moves(before, after) == (called not in order[:16])

    @given(st.permutations(range(1, 13)))
    def test_spare_replicas_do_not_follow_the_order_of_calls(self, order: list[int]) -> None:
        by_id = {v.id: v for v in candidates(12)}
        sites = fleet(4, 4)
        before = place(list(by_id.values()), sites)
        after = place([by_id[i] for i in order], holding(sites, before))
        assert ids(after) == ids(before)

    @given(st.integers(2, 6), st.integers(1, 60))
    def test_a_worker_that_joins_or_leaves_moves_few(self, workers: int, count: int) -> None:
        ranked, sites = candidates(count), fleet(workers, 6)
        before = place(ranked, sites)
        joined = [*holding(sites, before), Site("new", 6)]
        assert moves(before, place(ranked, joined)) <= 6
        left = holding(sites, before)[1:]
        assert moves(before, place(ranked, left)) <= 6

    def test_pins_are_replicas_before_others_get_one(self) -> None:
        first = replace(candidates(1)[0], pinned=2)
        others = [v for v in candidates(9) if v.id != 1]
        full = [Site("w0", 2, frozenset({2, 3})), Site("w1", 2, frozenset({4, 5}))]
        placed = ids(place([first, *others], full))
        assert all(1 in given_ for given_ in placed.values())
        assert {i for given_ in placed.values() for i in given_} == {1, 2, 3}

    def test_where_it_failed_it_is_not_counted_on(self) -> None:
        one, two = candidates(2)
        sites = [Site("w0", 1, frozenset({1})), Site("w1", 1, frozenset({2}))]
        assert ids(place([one, two], sites, {("w0", 1)})) == {"w0": {2}, "w1": {1}}
        both = {("w0", 1), ("w1", 1)}
        assert 1 in {i for given_ in ids(place([one], sites, both)).values() for i in given_}

    def test_spare_room_lets_it_try_again_where_it_failed(self) -> None:
        placed = ids(place(candidates(1), fleet(2, 4), {("w0", 1)}))
        assert placed == {"w0": {1}, "w1": {1}}

    def test_a_worker_without_room_gets_nothing(self) -> None:
        assert place(candidates(3), [Site("w0", -1), Site("w1", 0)]) == {}
