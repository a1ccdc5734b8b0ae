"""Proof of effect: does a worker really answer with the adapter that it says it has loaded?

A worker can accept a load and go on answering with the base model, or with other weights. So a few
fixed prompts are scored under the base and under the adapter, and the mean log-probabilities of
their answers are compared with a reference that was made on the served base. Means, never single
tokens: kernels and number formats move single tokens a lot and means very little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gateway.registry.snapshot import Effect
from gateway.workers.admin import WorkerAdmin
from gateway.workers.errors import FingerprintInvalid, MeasureFailed

TOLERANCE = 0.1  # of the distance between adapter and base
FLOOR = 1e-4  # nats per token: float32 kernels agree to 4e-5
NEARER = 0.5  # of a merged model's distance to the base, where its format may move it
MAX_PROMPTS = 16
MAX_TOKENS = 1024
# A token of an answer costs a pass over all before it: a third of a second with LoRA on a CPU.
MEASURED_PROMPTS = 3
MEASURED_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, of which those from `answer_start` on are scored."""

    token_ids: tuple[int, ...]
    answer_start: int

    @property
    def answer_length(self) -> int:
        """How many tokens are scored."""
        return len(self.token_ids) - self.answer_start


@dataclass(frozen=True, slots=True)
class Reference:
    """Mean answer log-probability of each prompt, in nats per token."""

    base: tuple[float, ...]
    adapter: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The prompts to measure with, and what they should give where somebody knows it."""

    prompts: tuple[Prompt, ...]
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and a sentence that holds its numbers."""

    effect: Effect
    detail: str


# Token ids that exist in every vocabulary of some thousand entries. Nonsense as text, which is
# fine: an adapter that changes a model at all changes what it expects here too.
FALLBACK = Fingerprint(
    tuple(
        Prompt(tuple(300 + (row * 37 + column * 101) % 900 for column in range(16)), 8)
        for row in range(3)
    )
)


def parse_fingerprint(raw: object) -> Fingerprint:
    """Read a manifest's `fingerprint`. Raises `FingerprintInvalid` and says what is wrong."""
    if not isinstance(raw, Mapping):
        raise FingerprintInvalid("fingerprint must be an object")
    prompts = _prompts(raw.get("prompts"))
    base = _means(raw.get("base_mean"), "base_mean", len(prompts))
    adapter = _means(raw.get("adapter_mean"), "adapter_mean", len(prompts))
    return Fingerprint(prompts, Reference(base, adapter))


def dump_fingerprint(prompts: Sequence[Prompt], reference: Reference) -> dict[str, Any]:
    """The JSON form of a fingerprint, as it stands in manifests."""
    return {
        "prompts": [
            {"token_ids": list(prompt.token_ids), "answer_start": prompt.answer_start}
            for prompt in prompts
        ],
        "base_mean": list(reference.base),
        "adapter_mean": list(reference.adapter),
    }


def _prompts(raw: object) -> tuple[Prompt, ...]:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_PROMPTS:
        raise FingerprintInvalid(f"fingerprint.prompts must be a list of 1 to {MAX_PROMPTS}")
    return tuple(_prompt(item, f"fingerprint.prompts[{i}]") for i, item in enumerate(raw))


def _prompt(raw: object, where: str) -> Prompt:
    if not isinstance(raw, Mapping):
        raise FingerprintInvalid(f"{where} must be an object")
    ids, start = raw.get("token_ids"), raw.get("answer_start")
    if not isinstance(ids, list) or not 2 <= len(ids) <= MAX_TOKENS:
        raise FingerprintInvalid(f"{where}.token_ids must be a list of 2 to {MAX_TOKENS}")
    if not all(type(token) is int and token >= 0 for token in ids):
        raise FingerprintInvalid(f"{where}.token_ids must be whole numbers from 0 on")
    if type(start) is not int or not 1 <= start < len(ids):
        raise FingerprintInvalid(f"{where}.answer_start must lie within the prompt, after token 0")
    return Prompt(tuple(ids), start)


def _means(raw: object, name: str, length: int) -> tuple[float, ...]:
    if not isinstance(raw, list) or len(raw) != length:
        raise FingerprintInvalid(f"fingerprint.{name} must be a list as long as the prompts")
    values = []
    for value in raw:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise FingerprintInvalid(f"fingerprint.{name} must hold finite numbers")
        values.append(float(value))
    return tuple(values)


def distance(left: Sequence[float], right: Sequence[float]) -> float:
    """Mean absolute difference. Raises ValueError where the lengths differ."""
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)


def judge(
    reference: Reference | None,
    base: Sequence[float],
    adapter: Sequence[float],
    base_again: Sequence[float] | None = None,
) -> Judgement:
    """Compare a worker's means with the reference, or with its own base where there is none.

    `base_again` is a second measurement of the base: how well the worker repeats itself.
    """
    if not all(map(isfinite, (*base, *adapter, *(base_again or ())))):
        return Judgement(Effect.MISMATCH, "The worker's log-probabilities are not finite.")
    own = distance(adapter, base)
    repeat = distance(base, base_again) if base_again is not None else 0.0
    if reference is None:
        return _judge_alone(own, repeat)
    return _judge_against(reference, base, adapter, repeat)


def _judge_alone(own: float, repeat: float) -> Judgement:
    """Without a reference: the first delta that is more than noise is taken for the adapter's."""
    bound = max(FLOOR, 3 * repeat)
    numbers = f"adapter and base differ by {own:.4g}, noise bound {bound:.4g}; no reference"
    if own > bound:
        return Judgement(Effect.EFFECTIVE, f"The adapter changes the answers: {numbers}.")
    return Judgement(Effect.NO_EFFECT, f"The base model answers: {numbers}.")


def _judge_against(
    reference: Reference, base: Sequence[float], adapter: Sequence[float], repeat: float
) -> Judgement:
    """Compare the answers, and the change that they are from the worker's own base.

    On the reference's base both are the same. A quantised one moves, and mostly its adapters move
    along: their answers may then be off by twice as much as the base is, the change hardly is.
    """
    scale = distance(reference.adapter, reference.base)
    bound = TOLERANCE * scale
    own, answers = distance(adapter, base), distance(adapter, reference.adapter)
    change = distance(_change(adapter, base), _change(reference.adapter, reference.base))
    noise = 2 * distance(base, reference.base)
    numbers = (
        f"off the reference by {answers:.4g}, its change by {change:.4g}, off the own base by"
        f" {own:.4g}, allowed {bound:.4g} (a tenth of {scale:.4g}), noise {noise:.4g}"
    )
    if scale < FLOOR:
        return Judgement(Effect.UNDECIDABLE, f"The reference itself hardly differs: {numbers}.")
    if min(answers, change) <= bound:
        return Judgement(Effect.EFFECTIVE, f"As the reference: {numbers}.")
    # Base and adapter of one worker share its number format, so this comparison holds even where
    # the worker is far from the reference's base; only its own repeatability could blur it.
    if own <= bound and 2 * repeat < scale:
        return Judgement(Effect.NO_EFFECT, f"The base model answers: {numbers}.")
    if scale <= noise or change <= noise:
        return Judgement(Effect.UNDECIDABLE, f"Within this worker's own noise: {numbers}.")
    return Judgement(Effect.MISMATCH, f"Other weights answer: {numbers}.")


def _change(adapter: Sequence[float], base: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(adapter, base, strict=True)]


def judge_merged(reference: Reference, means: Sequence[float]) -> Judgement:
    """Compare the means of a merged model with its reference.

    There is no base on its worker that would tell the worker's own noise. So what is off the
    reference, yet nearer to it than to the base by far, may be the worker's number format.
    """
    if not all(map(isfinite, means)):
        return Judgement(Effect.MISMATCH, "The worker's log-probabilities are not finite.")
    scale = distance(reference.adapter, reference.base)
    bound = TOLERANCE * scale
    off, from_base = distance(means, reference.adapter), distance(means, reference.base)
    numbers = (
        f"off the reference by {off:.4g}, off the base's by {from_base:.4g},"
        f" allowed {bound:.4g} (a tenth of {scale:.4g})"
    )
    if scale < FLOOR:
        return Judgement(Effect.UNDECIDABLE, f"The reference itself hardly differs: {numbers}.")
    if off <= bound:
        return Judgement(Effect.EFFECTIVE, f"As the reference: {numbers}.")
    if from_base <= bound:
        return Judgement(Effect.NO_EFFECT, f"The base model answers: {numbers}.")
    if off <= NEARER * from_base and off <= scale:
        return Judgement(Effect.UNDECIDABLE, f"Near the reference: {numbers}.")
    return Judgement(Effect.MISMATCH, f"Other weights answer: {numbers}.")


def bounded(fingerprint: Fingerprint) -> Fingerprint:
    """What is measured of a fingerprint: its shortest answers, within the limits above.

    Always whole answers, since the reference knows only their means, and always at least one. An
    answer that the adapter hardly changes tells nothing, and is left out.
    """
    known = fingerprint.reference
    deltas = [1.0] * len(fingerprint.prompts)
    if known is not None:
        deltas = [abs(a - b) for a, b in zip(known.adapter, known.base, strict=True)]
    telling = [i for i, delta in enumerate(deltas) if delta >= TOLERANCE * max(deltas)]
    telling.sort(key=lambda i: (fingerprint.prompts[i].answer_length, i))
    chosen, tokens = telling[:1], fingerprint.prompts[telling[0]].answer_length
    for i in telling[1:MEASURED_PROMPTS]:
        tokens += fingerprint.prompts[i].answer_length
        if tokens <= MEASURED_TOKENS:
            chosen.append(i)
    return Fingerprint(
        tuple(fingerprint.prompts[i] for i in chosen),
        known
        and Reference(
            tuple(known.base[i] for i in chosen), tuple(known.adapter[i] for i in chosen)
        ),
    )


async def measure(worker: WorkerAdmin, model: str, prompts: Sequence[Prompt]) -> tuple[float, ...]:
    """Mean answer log-probability of each prompt under `model`, in nats per token.

    One prompt at a time: whatever else the worker does goes on beside it. Raises
    `WorkerUnreachable` and `MeasureFailed`.
    """
    means = []
    for prompt in prompts:
        answer = await worker.answer_logprobs(model, prompt.token_ids, prompt.answer_start)
        if len(answer) != prompt.answer_length:
            raise MeasureFailed("The worker left tokens of a verification prompt unscored.")
        means.append(sum(answer) / len(answer))
    return tuple(means)
