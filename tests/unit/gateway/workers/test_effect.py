"""The verdict on what a worker answers with."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.registry.snapshot import Effect
from gateway.workers.effect import (
    FALLBACK,
    FLOOR,
    MEASURED_PROMPTS,
    MEASURED_TOKENS,
    TOLERANCE,
    Fingerprint,
    Prompt,
    Reference,
    bounded,
    distance,
    dump_fingerprint,
    judge,
    judge_merged,
    measure,
    parse_fingerprint,
)
from gateway.workers.errors import FingerprintInvalid, MeasureFailed
from tests.unit.gateway.workers.fake import BASE, FakeWorker, fingerprint

numbers = st.floats(-20, 0, allow_nan=False)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8)


def reference(rows: list[tuple[float, float]]) -> Reference:
    return Reference(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


@st.composite
def references(draw: st.DrawFn) -> Reference:
    made = reference(draw(pairs))
    assume(distance(made.base, made.adapter) > 0.01)
    return made


@given(references())
def test_the_reference_itself_is_effective(known: Reference) -> None:
    assert judge(known, known.base, known.adapter).effect is Effect.EFFECTIVE


@given(references())
def test_the_base_in_place_of_the_adapter_has_no_effect(known: Reference) -> None:
    assert judge(known, known.base, known.base).effect is Effect.NO_EFFECT


@given(references(), st.floats(-0.9, 0.9))
def test_a_small_error_is_allowed(known: Reference, part: float) -> None:
    shift = part * TOLERANCE * distance(known.base, known.adapter)
    measured = [value + shift for value in known.adapter]
    assert judge(known, known.base, measured).effect is Effect.EFFECTIVE


@given(references(), st.floats(1.2, 5))
def test_other_weights_mismatch(known: Reference, times: float) -> None:
    """Twice as far from the base, and on the other side of it."""
    measured = [b - times * (a - b) for a, b in zip(known.adapter, known.base, strict=True)]
    assert judge(known, known.base, measured).effect is Effect.MISMATCH


@given(references(), st.floats(-3, 3), st.floats(-3, 3))
def test_what_is_routable_is_near_the_reference_or_lost_in_noise(
    known: Reference, base_off: float, adapter_off: float
) -> None:
    base = [value + base_off for value in known.base]
    adapter = [value + adapter_off for value in known.adapter]
    verdict = judge(known, base, adapter)
    scale = distance(known.adapter, known.base)
    # All answers move alike here, so the change is off by what one has moved more than the other.
    change = abs(adapter_off - base_off)
    if verdict.effect is Effect.EFFECTIVE:
        assert min(distance(adapter, known.adapter), change) <= TOLERANCE * scale + 1e-9
    if verdict.effect is Effect.UNDECIDABLE:
        noise = 2 * distance(base, known.base) + 1e-9
        assert noise >= scale or noise >= change


def test_noise_as_large_as_the_delta_is_undecidable() -> None:
    known = Reference((-3.0, -3.0), (-2.9, -2.9))
    verdict = judge(known, (-3.3, -2.7), (-3.15, -2.6))
    assert verdict.effect is Effect.UNDECIDABLE
    assert "noise 0.6" in verdict.detail


def test_base_answers_is_found_even_on_a_noisy_worker() -> None:
    known = Reference((-3.0, -3.0), (-2.9, -2.9))
    assert judge(known, (-3.3, -2.7), (-3.3, -2.7)).effect is Effect.NO_EFFECT


# Two answers of the bundled base under nothing and under the two shipped adapters: in float32, and
# on vLLM with copies of it in four bits.
FLOAT = ((-3.28, -2.93), (-2.09, -1.43), (-0.73, -0.8))
GPTQ = ((-3.681, -3.015), (-2.735, -1.735), (-1.33, -0.884))
AWQ = ((-3.664, -3.386), (-2.278, -1.53), (-1.068, -1.184))


@pytest.mark.parametrize("quantised", [GPTQ, AWQ], ids=["gptq", "awq"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_quantised_base_refuses_no_right_adapter(
    quantised: tuple[tuple[float, float], ...], which: int
) -> None:
    known = Reference(FLOAT[0], FLOAT[which])
    base, adapter = quantised[0], quantised[which]
    for worse in (0.0, 0.1):  # there must be room for a base that is somewhat worse
        verdict = judge(known, base, [value - worse for value in adapter], base)
        assert verdict.effect in (Effect.EFFECTIVE, Effect.UNDECIDABLE)


@pytest.mark.parametrize("quantised", [GPTQ, AWQ], ids=["gptq", "awq"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_quantised_base_never_passes_for_an_adapter(
    quantised: tuple[tuple[float, float], ...], which: int
) -> None:
    known, base = Reference(FLOAT[0], FLOAT[which]), quantised[0]
    assert judge(known, base, base, base).effect is Effect.NO_EFFECT


@pytest.mark.parametrize(("quantised", "which"), [(GPTQ, 1), (GPTQ, 2), (AWQ, 1)])
def test_other_weights_are_found_on_a_quantised_base(
    quantised: tuple[tuple[float, float], ...], which: int
) -> None:
    known = Reference(FLOAT[0], FLOAT[which])
    verdict = judge(known, quantised[0], quantised[3 - which], quantised[0])
    assert verdict.effect is Effect.MISMATCH


def test_a_change_that_a_quantised_base_leaves_as_it_was_is_effective() -> None:
    """Where all answers are less likely by the same, the adapter is the right one."""
    known = Reference((-3.0, -2.0), (-2.0, -1.5))
    verdict = judge(known, (-3.4, -2.4), (-2.38, -1.9))
    assert verdict.effect is Effect.EFFECTIVE
    assert "its change by 0.01" in verdict.detail


def test_adapter_that_hardly_differs_is_undecidable() -> None:
    known = Reference((-3.0,), (-3.0 + FLOOR / 2,))
    assert judge(known, (-3.0,), (-3.0,)).effect is Effect.UNDECIDABLE


def test_not_a_number_is_never_routable() -> None:
    known = Reference((-3.0,), (-2.0,))
    assert judge(known, (-3.0,), (float("nan"),)).effect is Effect.MISMATCH


@given(st.lists(numbers, min_size=1, max_size=8), st.floats(0.01, 3))
def test_without_a_reference_any_clear_delta_is_effective(base: list[float], delta: float) -> None:
    moved = [value + delta for value in base]
    assert judge(None, base, moved, base).effect is Effect.EFFECTIVE
    assert judge(None, base, base, base).effect is Effect.NO_EFFECT


def test_without_a_reference_the_workers_own_noise_counts() -> None:
    assert judge(None, (-3.0,), (-2.9,), (-2.95,)).effect is Effect.NO_EFFECT


@given(references())
def test_a_merged_model_is_held_to_its_reference_alone(known: Reference) -> None:
    assert judge_merged(known, known.adapter).effect is Effect.EFFECTIVE
    assert judge_merged(known, known.base).effect is Effect.NO_EFFECT


@pytest.mark.parametrize(
    ("mean", "effect"),
    [
        (-1.0, Effect.EFFECTIVE),
        (-1.09, Effect.EFFECTIVE),
        (-1.3, Effect.UNDECIDABLE),  # as a quantised worker is off
        (-0.5, Effect.UNDECIDABLE),
        (-1.5, Effect.MISMATCH),  # as near to the base as to the reference
        (-1.95, Effect.NO_EFFECT),
        (-4.0, Effect.MISMATCH),
        (float("nan"), Effect.MISMATCH),
    ],
)
def test_the_verdict_on_a_merged_model_by_its_place(mean: float, effect: Effect) -> None:
    known = Reference(base=(-2.0, -2.0), adapter=(-1.0, -1.0))
    assert judge_merged(known, (mean, mean)).effect is effect


def test_a_merged_model_that_hardly_differs_is_undecidable() -> None:
    same = Reference(base=(-2.0,), adapter=(-2.0,))
    assert judge_merged(same, (-2.0,)).effect is Effect.UNDECIDABLE


def test_details_hold_the_numbers() -> None:
    known = Reference((-3.0,), (-1.66,))
    verdict = judge(known, (-3.0,), (-1.7,))
    assert "0.04" in verdict.detail
    assert "1.34" in verdict.detail


@given(references(), st.lists(st.integers(0, 10**6), min_size=2, max_size=9))
def test_fingerprints_survive_a_round_trip(known: Reference, ids: list[int]) -> None:
    prompts = [Prompt(tuple(ids), len(ids) - 1)] * len(known.base)
    read = parse_fingerprint(dump_fingerprint(prompts, known))
    assert read.prompts == tuple(prompts)
    assert read.reference == known


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompts", [], "fingerprint.prompts"),
        ("prompts", "x", "fingerprint.prompts"),
        ("prompts", [1], "prompts\\[0\\] must be an object"),
        ("prompts", [{"token_ids": [1], "answer_start": 1}], "token_ids"),
        ("prompts", [{"token_ids": [1, -2], "answer_start": 1}], "whole numbers"),
        ("prompts", [{"token_ids": [1, True], "answer_start": 1}], "whole numbers"),
        ("prompts", [{"token_ids": [1, 2], "answer_start": 0}], "answer_start"),
        ("prompts", [{"token_ids": [1, 2], "answer_start": 2}], "answer_start"),
        ("base_mean", [1.0], "base_mean"),
        ("adapter_mean", [float("nan")] * 4, "finite"),
        ("adapter_mean", ["x"] * 4, "finite"),
    ],
)
def test_bad_fingerprints_name_the_fault(field: str, value: object, says: str) -> None:
    with pytest.raises(FingerprintInvalid, match=says):
        parse_fingerprint({**fingerprint(), field: value})


def test_fingerprint_must_be_an_object() -> None:
    with pytest.raises(FingerprintInvalid, match="object"):
        parse_fingerprint([])


async def test_measure_takes_the_mean_of_the_answer_one_prompt_at_a_time() -> None:
    worker = FakeWorker()
    assert await measure(worker, BASE, [Prompt((1, 2, 3), 1), Prompt((4, 5), 1)]) == (-3.0, -3.0)
    assert worker.log == [f"measure {BASE}"] * 2


async def test_unscored_tokens_are_no_measurement() -> None:
    worker = FakeWorker()

    async def scores(model: str, token_ids: object, answer_start: int) -> list[float]:
        return [-1.0]

    worker.answer_logprobs = scores  # type: ignore[method-assign, assignment]
    with pytest.raises(MeasureFailed):
        await measure(worker, BASE, [Prompt((1, 2, 3), 1)])


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    rows = draw(st.lists(st.tuples(st.integers(1, 40), numbers, numbers), min_size=1, max_size=8))
    prompts = tuple(Prompt((7,) * (length + 3), 3) for length, _, _ in rows)
    return Fingerprint(prompts, reference([(base, adapter) for _, base, adapter in rows]))


@given(fingerprints())
def test_what_is_measured_is_bounded_and_whole(full: Fingerprint) -> None:
    part = bounded(full)
    assert full.reference is not None
    assert part.reference is not None
    assert 1 <= len(part.prompts) <= MEASURED_PROMPTS
    assert len(part.prompts) == 1 or sum(map(length_of, part.prompts)) <= MEASURED_TOKENS
    known = set(zip(full.prompts, full.reference.base, full.reference.adapter, strict=True))
    rows = zip(part.prompts, part.reference.base, part.reference.adapter, strict=True)
    assert set(rows) <= known
    largest = distance_of_rows(full.reference)
    assert all(delta >= TOLERANCE * max(largest) for delta in distance_of_rows(part.reference))


def length_of(prompt: Prompt) -> int:
    return prompt.answer_length


def distance_of_rows(known: Reference) -> list[float]:
    return [abs(a - b) for a, b in zip(known.adapter, known.base, strict=True)]


def test_the_shortest_telling_answers_are_measured() -> None:
    prompts = tuple(Prompt((1,) * length, 1) for length in (10, 4, 30, 6, 5))
    known = reference([(-3.0, -2.0)] * 4 + [(-3.0, -2.99)])
    assert bounded(Fingerprint(prompts, known)).prompts == (prompts[1], prompts[3], prompts[0])


def test_the_built_in_prompts_are_all_measured() -> None:
    assert bounded(FALLBACK) == FALLBACK
