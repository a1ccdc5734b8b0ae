"""The choice of doubtful answers: within the budget, and the lowest scores first."""

import random
from collections.abc import Callable, Iterator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.sampling import AUDIT_SHARE, Drawn, SamplingState, draw

DAY = 86_400.0


def run(
    times: list[float], budget: int, score: Callable[[int], float | None], seed: int = 1
) -> Iterator[tuple[float, float | None, Drawn]]:
    rng = random.Random(seed)
    state: SamplingState | None = None
    for number, now in enumerate(times):
        value = score(number)
        state, drawn = draw(state, now, 1, value, budget, (rng.random(), rng.random()))
        yield now, value, drawn


gaps = st.lists(st.sampled_from([0.0, 0.1, 5.0, 300.0, 4000.0, 50_000.0]), max_size=300)


@settings(max_examples=60)
@given(gaps, st.integers(0, 20), st.integers(0, 5), st.integers())
def test_never_more_than_the_budget_in_any_day(
    steps: list[float], budget: int, kinds: int, seed: int
) -> None:
    times, now = [], 1_000_000.0
    for step in steps:
        now += step
        times.append(now)
    rng = random.Random(seed)
    scores = [rng.choice([None, *(-float(kind) for kind in range(kinds))]) for _ in times]
    chosen = [
        at
        for at, _, drawn in run(times, budget, lambda number: scores[number], seed)
        if drawn.audit or drawn.doubtful
    ]
    for begin in chosen:
        assert sum(begin <= at < begin + DAY for at in chosen) <= budget


def test_the_budget_is_filled_on_ordinary_days() -> None:
    rng = random.Random(3)
    times = [number * DAY / 2000 for number in range(8000)]
    taken = [
        (at, value, drawn)
        for at, value, drawn in run(times, 100, lambda _: rng.gauss(-0.5, 0.2))
        if at >= 2 * DAY
    ]
    doubtful = [value for _, value, drawn in taken if drawn.doubtful]
    audited = sum(drawn.audit for _, _, drawn in taken)
    assert 125 <= len(doubtful) <= 160  # two days, four fifths of 100 each
    assert 25 <= audited <= 55
    rest = sorted(value for _, value, _ in taken if value is not None)
    assert max(value for value in doubtful if value is not None) < rest[len(rest) // 4]


def test_a_burst_on_the_first_day_leaves_room() -> None:
    rng = random.Random(5)
    times = [float(number) for number in range(5000)]
    drawn = [d for _, _, d in run(times, 100, lambda _: rng.random())]
    assert any(d.doubtful for d in drawn[:500])
    assert any(d.doubtful for d in drawn[1500:])


def test_equal_scores_do_not_all_come_in() -> None:
    drawn = [d for _, _, d in run([float(n) for n in range(400)], 100, lambda _: -1.0)]
    assert 20 <= sum(d.doubtful for d in drawn) <= 80


def test_a_new_version_is_measured_by_its_own_scores() -> None:
    """The base model rambles and is unsure; the version after it is sure even where it is wrong."""
    rng = random.Random(11)
    state: SamplingState | None = None
    doubtful: list[float] = []
    for number in range(500):
        version = 0 if number < 150 else 1
        score = rng.uniform(-3, -2) if version == 0 else rng.uniform(-1, 0)
        chances = rng.random(), rng.random()
        state, drawn = draw(state, float(number), version, score, 100, chances)
        if version == 1 and drawn.doubtful:
            doubtful.append(score)
    assert len(doubtful) >= 20
    assert sum(score < -0.7 for score in doubtful) >= 0.9 * len(doubtful)


def test_the_audit_does_not_look_at_the_score() -> None:
    rng = random.Random(7)
    low, high = 0, 0
    for seed in range(60):
        for _, value, drawn in run(
            [float(n) for n in range(300)], 50, lambda _: rng.choice([-3.0, -0.1]), seed
        ):
            low += drawn.audit and value == -3.0
            high += drawn.audit and value == -0.1
    assert 0.8 < low / high < 1.25


def test_probabilities_are_what_they_say() -> None:
    rng = random.Random(9)
    hits = expected = 0.0
    for seed in range(40):
        for _, _, drawn in run([float(n) for n in range(200)], 30, lambda _: rng.random(), seed):
            hits += drawn.audit
            expected += drawn.audit_probability
    assert abs(hits - expected) < 4 * expected**0.5
    assert expected > 0


def test_an_answer_without_a_score_can_only_be_audited() -> None:
    drawn = [d for _, _, d in run([float(n) for n in range(2000)], 100, lambda _: None)]
    assert not any(d.doubtful for d in drawn)
    assert 0 < sum(d.audit for d in drawn) <= 100
    assert 0 < AUDIT_SHARE < 1


def test_the_state_survives_the_store() -> None:
    state, _ = draw(None, 10.0, 1, -0.5, 10, (1.0, 1.0))
    assert msgspec.convert(msgspec.to_builtins(state), SamplingState) == state
