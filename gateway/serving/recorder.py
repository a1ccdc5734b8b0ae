"""A finished call becomes a capture in the outbox; that never delays or fails an answer."""

from __future__ import annotations

import logging
import os

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from feedback.outbox import Outbox
from feedback.types import Capture, CapturedChoice
from gateway.serving.call import Draft
from gateway.serving.confidence import score
from gateway.serving.turn import ChoiceState

logger = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder(enc_hook=str)
_NONCE = 12


def seal(cipher: AESGCM, plain: bytes) -> bytes:
    """Encrypt a record for rest on this machine; the nonce stands in front."""
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, plain, None)


def unseal(cipher: AESGCM, sealed: bytes) -> bytes:
    """Undo `seal`. Raises `cryptography.exceptions.InvalidTag` for a wrong key or damage."""
    return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)


class Recorder:
    """Puts captures into the outbox, encrypted: texts are not yet scrubbed there."""

    def __init__(self, outbox: Outbox, key: bytes) -> None:
        """`key` has 32 bytes."""
        self.failed = 0
        self._outbox = outbox
        self._cipher = AESGCM(key)

    def put(self, draft: Draft) -> None:
        """Record a call; calls with an evaluation key are left out."""
        if draft.call.key.purpose == "evaluation":
            return
        try:
            payload = _encoder.encode(capture_of(draft))
            self._outbox.put(draft.id, seal(self._cipher, payload))
        except Exception:  # a record that cannot be made must not cost the answer
            self.failed += 1
            logger.exception("a call could not be recorded")


def capture_of(draft: Draft) -> Capture:
    """Turn what is known of a call into its record."""
    call, turn = draft.call, draft.turn
    choices = sorted(turn.choices.values(), key=lambda state: state.index) if turn else []
    usage = turn.total if turn else None
    return Capture(
        id=draft.id,
        route=call.route,
        tenant=call.key.tenant,
        key_id=call.key.id,
        alias=draft.version.alias,
        version=draft.version.number,
        version_id=draft.version.id,
        worker=draft.target.worker.name if draft.target else "",
        request=msgspec.Raw(call.asked),
        choices=[_choice(state) for state in choices],
        usage=usage.as_dict() if usage else {},
        started=draft.started,
        first_token=draft.first_token,
        duration=draft.elapsed,
        outcome=draft.outcome,
        audit=draft.audit,
        request_id=call.request_id,
        session=call.session,
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
        confidence=score(state.scores),
    )
