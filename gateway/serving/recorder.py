"""A finished call becomes a record in the outbox; that never delays or fails an answer.

It is a capture, or a `Use` where no answer is kept: what was used is known of every call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from feedback.outbox import Outbox
from feedback.sealing import Seal
from feedback.types import Capture, CapturedChoice, Fallback, ShadowPair, Use
from gateway.registry.snapshot import Key, Version
from gateway.serving.call import Draft
from gateway.serving.turn import ChoiceState

logger = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder(enc_hook=str)


class Recorder:
    """Puts records into the outbox, encrypted: texts are not yet scrubbed there.

    Calls with an evaluation key are left out.
    """

    def __init__(self, outbox: Outbox, seal: Seal, left_out: Collection[str] = ()) -> None:
        """`left_out` are aliases whose answers are not kept, only what they used."""
        self.failed = 0
        self._outbox = outbox
        self._seal = seal
        self._left_out = frozenset(left_out)

    def put(self, draft: Draft) -> None:
        """Record a call for text."""
        if draft.call.key.purpose != "evaluation":
            left_out = draft.alias in self._left_out
            self._put(draft.id, use_of if left_out else capture_of, draft)

    def count(self, key: Key, alias: str, version: Version, call_id: str, tokens: int) -> None:
        """Record a call without text that was answered, under an id of its own."""
        if key.purpose != "evaluation":
            self._put(call_id, _passed, key, alias, version, call_id, tokens)

    def _put(self, record_id: str, make: Callable[..., Capture | Use], *given: Any) -> None:
        try:
            payload = _encoder.encode(make(*given))
            self._outbox.put(record_id, self._seal.seal(payload))
        except Exception:  # a record that cannot be made must not cost the answer
            self.failed += 1
            logger.exception("a call could not be recorded")

    def put_pair(self, pair: ShadowPair) -> None:
        """Record what came of a copied call; where no answers are kept, it names no session."""
        if pair.alias in self._left_out:
            pair = msgspec.structs.replace(pair, session=None)
        try:
            self._outbox.put(f"shadow-{pair.id}", self._seal.seal(_encoder.encode(pair)))
        except Exception:
            self.failed += 1
            logger.exception("a pair of answers could not be recorded")


def use_of(draft: Draft) -> Use:
    """Tell what a call used, under the version that answered, as its capture would."""
    call, version = draft.call, draft.version
    usage = draft.usage
    return Use(
        id=draft.id,
        tenant=call.key.tenant,
        key_id=call.key.id,
        alias=version.alias if draft.wanted else draft.alias,
        version=version.number,
        usage=usage.as_dict() if usage else {},
        started=draft.started,
    )


def _passed(key: Key, alias: str, version: Version, call_id: str, tokens: int) -> Use:
    return Use(
        id=call_id,
        tenant=key.tenant,
        key_id=key.id,
        alias=alias,
        version=version.number,
        usage={"prompt_tokens": tokens},
        started=time.time(),
    )


def capture_of(draft: Draft) -> Capture:
    """Turn what is known of a call into its record."""
    call, turn = draft.call, draft.turn
    choices = sorted(turn.choices.values(), key=lambda state: state.index) if turn else []
    usage = draft.usage
    return Capture(
        id=draft.id,
        route=call.route,
        tenant=call.key.tenant,
        key_id=call.key.id,
        alias=draft.alias,
        version=draft.version.number,
        version_id=draft.version.id,
        worker=draft.target.worker.name if draft.target else "",
        request=msgspec.Raw(call.asked),
        choices=[_choice(state) for state in choices],
        usage=usage.as_dict() if usage else {},
        started=draft.started,
        first_token=draft.first_token,
        duration=draft.elapsed,
        queued=draft.standing.waited,
        outcome=draft.outcome,
        audit=draft.audit,
        request_id=call.request_id,
        session=call.session,
        fallback=Fallback(draft.wanted.model, draft.model) if draft.wanted else None,
    )


def _choice(state: ChoiceState) -> CapturedChoice:
    tools = [
        {"id": tool.id, "name": tool.name, "arguments": tool.arguments}
        for tool in state.tools.values()
    ]
    return CapturedChoice(
        index=state.index,
        content=state.text("content"),
        reasoning=state.text("reasoning"),
        tool_calls=tools or None,
        finish_reason=state.finish,
        confidence=state.confidence,
    )
