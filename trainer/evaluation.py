"""What a version answered to the items of a golden set, as plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from trainer.errors import EvaluationInvalid


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to one golden item, beside what should have been said.

    `confidence` is the mean log-probability of the answer's tokens in nats, where it was told.
    """

    item_id: str
    slice: str
    prompt: str
    expected: str
    said: str
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answers of one version (`support@3`, or `base`) to the golden set of that digest."""

    version: str
    golden_digest: str
    answers: tuple[Answer, ...]


_TEXTS = tuple(field.name for field in fields(Answer) if field.name != "confidence")


def dump_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Give the evaluation as a JSON object, ordered by item: same answers, same JSON."""
    answers = sorted(evaluation.answers, key=lambda answer: answer.item_id)
    return {
        "version": evaluation.version,
        "golden_digest": evaluation.golden_digest,
        "answers": [asdict(answer) for answer in answers],
    }


def parse_evaluation(value: Mapping[str, Any]) -> Evaluation:
    """Make an Evaluation of a JSON object, ignoring unknown keys; raise EvaluationInvalid."""
    answers = value.get("answers")
    if not isinstance(answers, list):
        raise EvaluationInvalid("an evaluation needs a list of answers")
    parsed = tuple(_parse_answer(answer, place) for place, answer in enumerate(answers))
    if twice := [name for name, n in Counter(a.item_id for a in parsed).items() if n > 1]:
        raise EvaluationInvalid(f"item {twice[0]!r} is answered more than once")
    return Evaluation(_text(value, "version"), _text(value, "golden_digest"), parsed)


def _parse_answer(value: Any, place: int) -> Answer:
    if not isinstance(value, Mapping):
        raise EvaluationInvalid(f"answers[{place}] is not an object")
    wrong = [name for name in _TEXTS if not isinstance(value.get(name), str)]
    if wrong:
        raise EvaluationInvalid(f"answers[{place}]: not a string: {', '.join(wrong)}")
    confidence = value.get("confidence")
    if confidence is not None and not isinstance(confidence, int | float):
        raise EvaluationInvalid(f"answers[{place}]: confidence is not a number")
    return Answer(**{name: value[name] for name in _TEXTS}, confidence=confidence)


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text:
        raise EvaluationInvalid(f"an evaluation needs a {name}")
    return text
