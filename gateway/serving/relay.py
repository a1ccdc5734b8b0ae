"""From a worker's raw answer to parsed messages, and from its failures to ours."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from gateway.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    UpstreamFailed,
)
from gateway.serving.answers import (
    Parsed,
    UnknownAnswer,
    gathered,
    parse_chat,
    parse_completion,
    parse_error,
)
from gateway.serving.attempts import ModelLost, WorkerFull, WorkerRefused
from gateway.serving.call import Draft
from gateway.serving.dialects import ALWAYS_STREAMS
from gateway.serving.dropped import dropped_fields
from gateway.serving.events import Event
from gateway.serving.router import Target
from gateway.serving.turn import Turn
from gateway.serving.upstream import Upstream, UpstreamAnswer, UpstreamError

logger = logging.getLogger(__name__)

Emit = Callable[[list[Event]], Awaitable[None]]
_DONE = b"[DONE]"
LOOKED_AT = 1 / 16
"""Share of the answers in which fields that are dropped are looked for: a look costs a reading."""
_TOO_LONG = re.compile(
    r"maximum (context|model) length|longer than the maximum|max_model_len"
    r"|exceeds the available context",
    re.IGNORECASE,
)


async def relay(
    draft: Draft, target: Target, turn: Turn, upstream: Upstream, send: Emit
) -> list[Event]:
    """Have a worker answer through the guards: a stream's events go to `send` as they come.

    Gives what of the answer is then still to be sent. Raises as `Reader` and the guards do.
    """
    try:
        return await _relay(draft, target, turn, upstream, send, draft.body_for(target))
    except InvalidRequest as error:
        if draft.sent or draft.bound_on(target) is None or not _is_of_length(error):
            raise
    # It refuses the bound that we have put in: the prompt leaves less room, which bounds it too.
    bare = draft.body_for(target, bounded=False)
    return await _relay(draft, target, turn, upstream, send, bare)


def _is_of_length(error: InvalidRequest) -> bool:
    return isinstance(error, ContextLengthExceeded) or "max_tokens" in error.message


async def _relay(
    draft: Draft, target: Target, turn: Turn, upstream: Upstream, send: Emit, body: bytes
) -> list[Event]:
    call = draft.call
    async with upstream.post(target.worker, call.path, body) as answer:
        reader = Reader(answer, target, draft)
        if not call.stream:
            message = await reader.whole()
            draft.note_first_token()
            return await turn.take(message)
        async with aclosing(reader.events()) as messages:
            async for message in messages:
                draft.note_first_token()
                if events := await turn.take(message):
                    await send(events)
                if turn.cut_short(call.expected_choices):
                    break
    return []


class Reader:
    """Reads one worker's answer to a call.

    Its methods raise `InvalidRequest` and its kin for what the client must mend, `UpstreamError`
    for what the worker did wrong, and `UpstreamFailed` for an answer that cannot be understood.
    """

    def __init__(self, answer: UpstreamAnswer, target: Target, draft: Draft) -> None:
        self._answer = answer
        self._target = target
        self._model = draft.model
        self._bare = not draft.call.wants_tokens
        self._parse = parse_chat if draft.call.is_chat else parse_completion
        looks = random.random() < LOOKED_AT  # noqa: S311 (a share of traffic, no secret)
        self._dropped = draft.dropped if looks else None
        self._messages = 0

    async def whole(self) -> Parsed:
        """Give the whole of a unary answer."""
        if self._target.worker.kind in ALWAYS_STREAMS:
            return gathered([message async for message in self.events()])
        body = await self._answer.read()
        if self._answer.status != 200:
            raise refusal(self._answer.status, body, self._target, self._model)
        return self._read(body)

    async def events(self) -> AsyncGenerator[Parsed, None]:
        """Give each event of a stream."""
        if self._answer.status != 200:
            body = await self._answer.read()
            raise refusal(self._answer.status, body, self._target, self._model)
        async for data in self._answer.events():
            if data == _DONE:
                return
            yield self._read(data)
        raise UpstreamError("the stream ended without [DONE]")

    def _read(self, data: bytes) -> Parsed:
        """Fail closed: what is not understood was not judged."""
        try:
            message = self._parse(data, self._bare)
        except UnknownAnswer as error:
            logger.warning("a worker's answer was not understood: %s", error)
            raise UpstreamFailed(
                "The worker's answer could not be understood, so it was withheld."
            ) from None
        if message.error is not None:
            status = message.error.code if isinstance(message.error.code, int) else 500
            raise _failure(status, message.error.message, self._target, self._model)
        if self._dropped is not None:
            self._look(data, message, self._dropped)
        return message

    def _look(self, data: bytes, message: Parsed, dropped: set[str]) -> None:
        """Look for what is dropped in the ends of an answer, and less and less in its middle."""
        self._messages += 1
        is_power_of_two = not self._messages & (self._messages - 1)
        if is_power_of_two or not message.parts or any(part.finish for part in message.parts):
            dropped |= dropped_fields(data)


def refusal(status: int, body: bytes, target: Target, model: str) -> Exception:
    """Give the error for a worker's answer that is none."""
    return _failure(status, parse_error(status, body).message, target, model)


def _failure(status: int, message: str, target: Target, model: str) -> Exception:
    """Tell the client's faults from the worker's; the worker-side names never show."""
    for name in filter(None, (target.name, target.ask.model)):
        message = message.replace(name, model)
    message = message[:2000]
    if status == 404:
        return ModelLost("the worker does not know the model")
    if status >= 500 or status in (401, 403):  # it takes no key, or not the one it got of us
        return WorkerRefused(f"the worker answered {status}")
    if status == 429:
        return WorkerFull("the worker takes no more calls right now")
    if _TOO_LONG.search(message):
        return ContextLengthExceeded(message, param="messages")
    return InvalidRequest(message or "The worker refused the request.")
