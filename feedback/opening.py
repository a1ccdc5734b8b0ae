"""From what waits in an outbox to what the store keeps: unsealed, read, scrubbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from feedback.conversation import conversation_of
from feedback.scrub import Record, Scrubber
from feedback.sealing import Seal, Unsealable
from feedback.types import Capture, Feedback, ShadowPair, Use


class _Kind(msgspec.Struct):
    """Which record it is; captures do not say."""

    kind: str = "capture"


_kind = msgspec.json.Decoder(_Kind)
_capture = msgspec.json.Decoder(Capture)
_use = msgspec.json.Decoder(Use)
_pair = msgspec.json.Decoder(ShadowPair)
_feedback = msgspec.json.Decoder(Feedback)
Unreadable = (Unsealable, msgspec.MsgspecError, ValueError, RecursionError)


def open_call(seal: Seal, payload: bytes) -> Capture | Use | ShadowPair:
    """Unseal what is kept of a call. Raises one of `Unreadable`."""
    plain = seal.unseal(payload)
    match _kind.decode(plain).kind:
        case "capture":
            return _capture.decode(plain)
        case "use":
            return _use.decode(plain)
        case "shadow":
            return _pair.decode(plain)
        case kind:
            raise ValueError(f"a record of the kind {kind!r} is not known")


def open_feedback(seal: Seal, payload: bytes) -> Feedback:
    """Unseal feedback. Raises one of `Unreadable`."""
    return _feedback.decode(seal.unseal(payload))


async def scrubbed_captures(
    scrubber: Scrubber, captures: Sequence[Capture]
) -> list[dict[str, Any]]:
    """Give captures by the store's columns, scrubbed. Raises `FinderAway`."""
    records = [
        Record(capture.tenant, capture.id, capture.alias, _texts_of(capture))
        for capture in captures
    ]
    cleaned = await scrubber.scrub(records)
    return [
        _values(scrubber, capture, clean) for capture, clean in zip(captures, cleaned, strict=True)
    ]


def pair_values(scrubber: Scrubber, pair: ShadowPair) -> dict[str, Any]:
    """Give a pair by the store's columns; it holds no text, only the session is to be hidden."""
    answers = {"stable": pair.stable, "candidate": pair.candidate}
    return {
        "id": pair.id,
        "tenant": pair.tenant,
        "alias": pair.alias,
        "stable_id": pair.stable_id,
        "candidate_id": pair.candidate_id,
        "session": scrubber.pseudonym(pair.tenant, pair.session) if pair.session else None,
        "started": pair.started,
        "same_text": pair.same_text,
        **{
            f"{role}_{name}": value
            for role, answer in answers.items()
            for name, value in msgspec.structs.asdict(answer).items()
        },
    }


async def scrubbed_feedback(scrubber: Scrubber, several: Sequence[Feedback]) -> list[Feedback]:
    """Give feedback with its texts scrubbed as those of its answer. Raises `FinderAway`."""
    records = [
        Record(
            one.tenant,
            one.response_id,
            one.alias,
            {"comment": one.comment, "correction": one.correction, "labels": list(one.labels)},
        )
        for one in several
    ]
    cleaned = await scrubber.scrub(records)
    return [
        msgspec.structs.replace(
            one,
            comment=clean["comment"],
            correction=clean["correction"],
            labels=tuple(clean["labels"]),
        )
        for one, clean in zip(several, cleaned, strict=True)
    ]


def _texts_of(capture: Capture) -> dict[str, Any]:
    messages, parameters = conversation_of(capture.request)
    return {
        "messages": messages,
        "parameters": parameters,
        "choices": msgspec.to_builtins(capture.choices),
    }


def _values(scrubber: Scrubber, capture: Capture, clean: dict[str, Any]) -> dict[str, Any]:
    first = next((choice for choice in capture.choices if choice.index == 0), None)
    confidence = first.confidence if first is not None else None
    session = capture.session
    return {
        "id": capture.id,
        "tenant": capture.tenant,
        "alias": capture.alias,
        "version": capture.version,
        "version_id": capture.version_id,
        "key_id": capture.key_id,
        "worker": capture.worker,
        "route": capture.route,
        **clean,
        "usage": capture.usage,
        "confidence_mean": confidence.mean if confidence else None,
        "confidence_min": confidence.minimum if confidence else None,
        "outcome": capture.outcome,
        "audit": capture.audit,
        "started": capture.started,
        "first_token": capture.first_token,
        "duration": capture.duration,
        "queued": capture.queued,
        "session": scrubber.pseudonym(capture.tenant, session) if session else None,
        "request_id": capture.request_id,
        "scrubber": scrubber.version,
        "fallback": msgspec.to_builtins(capture.fallback),
    }
