"""From a worker's raw answer to parsed messages, and from its failures to ours."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable

from gateway.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    Overloaded,
    UpstreamFailed,
)
from gateway.serving.answers import Parsed, UnknownAnswer, parse_chat, parse_completion, parse_error
from gateway.serving.router import Target
from gateway.serving.upstream import UpstreamAnswer, UpstreamError

logger = logging.getLogger(__name__)

_DONE = b"[DONE]"
_TOO_LONG = re.compile(
    r"maximum (context|model) length|longer than the maximum|max_model_len", re.IGNORECASE
)


class WorkerRefused(UpstreamError):
    """The worker itself is at fault (5xx): another one may answer."""


class ModelLost(UpstreamError):
    """The worker does not know the model any more: it has restarted."""


async def messages(
    answer: UpstreamAnswer, target: Target, model: str, *, chat: bool, bare: bool, stream: bool
) -> AsyncGenerator[Parsed, None]:
    """Give each message of the worker's answer.

    Raises `InvalidRequest` and its kin for what the client must mend, `UpstreamError` for what the
    worker did wrong, and `UpstreamFailed` for an answer that cannot be understood.
    """
    if answer.status != 200:
        raise _refusal(answer.status, await answer.read(), target, model)
    parse = parse_chat if chat else parse_completion
    if not stream:
        yield _parsed(_read(parse, await answer.read(), bare), target, model)
        return
    async for data in answer.events():
        if data == _DONE:
            return
        yield _parsed(_read(parse, data, bare), target, model)
    raise UpstreamError("the stream ended without [DONE]")


def _parsed(message: Parsed, target: Target, model: str) -> Parsed:
    if message.error is not None:
        status = message.error.code if isinstance(message.error.code, int) else 500
        raise _failure(status, message.error.message, target, model)
    return message


def _refusal(status: int, body: bytes, target: Target, model: str) -> Exception:
    return _failure(status, parse_error(status, body).message, target, model)


def _failure(status: int, message: str, target: Target, model: str) -> Exception:
    """Tell the client's faults from the worker's; the worker-side name never shows."""
    message = message.replace(target.name, model)[:2000]
    if status == 404:
        return ModelLost("the worker does not know the model")
    if status >= 500:
        return WorkerRefused(f"the worker answered {status}")
    if status == 429:
        return Overloaded("The worker takes no more calls right now: try again shortly.")
    if _TOO_LONG.search(message):
        return ContextLengthExceeded(message, param="messages")
    return InvalidRequest(message or "The worker refused the request.")


def _read(parse: Callable[[bytes, bool], Parsed], data: bytes, bare: bool) -> Parsed:
    """Fail closed: what is not understood was not judged."""
    try:
        return parse(data, bare)
    except UnknownAnswer as error:
        logger.warning("a worker's answer was not understood: %s", error)
        raise UpstreamFailed(
            "The worker's answer could not be understood, so it was withheld."
        ) from None
