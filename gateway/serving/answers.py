"""What is read of a worker's answers, and the one form in which the pipeline works on them.

Structs are narrow: a field that is not named here is dropped while decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from guardrails.types import Field


class Top(msgspec.Struct):
    """An alternative token at a position."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Token(msgspec.Struct):
    """A sampled token with its natural-log probability and, where asked, the alternatives."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[Top] | None = None


class BareToken(msgspec.Struct):
    """A sampled token, without what only a client that asked for logprobs needs."""

    token: str
    logprob: float


class Usage(msgspec.Struct, omit_defaults=True):
    """Token counts as the worker bills them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give OpenAI's usage object."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.prompt_tokens_details:
            usage["prompt_tokens_details"] = self.prompt_tokens_details
        return usage


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolDelta(msgspec.Struct):
    """A tool call, or a piece of one in a stream."""

    function: _Function
    index: int = 0
    id: str | None = None


class _Text(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolDelta] | None = None


class _ChatLogprobs(msgspec.Struct):
    content: list[Token] | None = None


class _BareChatLogprobs(msgspec.Struct):
    content: list[BareToken] | None = None


class _ChatChoice(msgspec.Struct):
    index: int
    message: _Text | None = None
    delta: _Text | None = None
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None


class _BareChatChoice(msgspec.Struct):
    index: int
    message: _Text | None = None
    delta: _Text | None = None
    logprobs: _BareChatLogprobs | None = None
    finish_reason: str | None = None


class _CompletionLogprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[Token] | None = None  # llama.cpp writes them as in a chat


class _CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: _CompletionLogprobs | None = None
    finish_reason: str | None = None


class WorkerError(msgspec.Struct):
    """The error object of a worker, in an answer or in a stream."""

    message: str = ""
    code: int | str | None = None
    type: str | None = None


class _Chat(msgspec.Struct):
    object: str = ""
    choices: list[_ChatChoice] | None = None
    usage: Usage | None = None
    error: WorkerError | None = None


class _BareChat(msgspec.Struct):
    object: str = ""
    choices: list[_BareChatChoice] | None = None
    usage: Usage | None = None
    error: WorkerError | None = None


class _Completion(msgspec.Struct):
    object: str = ""
    choices: list[_CompletionChoice] | None = None
    usage: Usage | None = None
    error: WorkerError | None = None


class Part(msgspec.Struct):
    """What one message of a worker says of one choice."""

    choice: int
    texts: list[tuple[Field, str]]
    tokens: Sequence[Token | BareToken] = ()
    tools: list[ToolDelta] | None = None
    finish: str | None = None


class Parsed(msgspec.Struct):
    """One message of a worker: a unary answer, or one event of a stream."""

    parts: list[Part]
    usage: Usage | None = None
    error: WorkerError | None = None


def gathered(messages: Sequence[Parsed]) -> Parsed:
    """Make a unary answer of a stream's events."""
    pieces: dict[int, list[Part]] = {}
    for message in messages:
        for part in message.parts:
            pieces.setdefault(part.choice, []).append(part)
    usage = next((m.usage for m in reversed(messages) if m.usage is not None), None)
    return Parsed([_whole(choice, parts) for choice, parts in pieces.items()], usage)


def _whole(choice: int, pieces: Sequence[Part]) -> Part:
    texts: dict[Field, list[str]] = {}
    for name, text in (named for piece in pieces for named in piece.texts):
        texts.setdefault(name, []).append(text)
    return Part(
        choice,
        [(name, "".join(said)) for name, said in texts.items()],
        [token for piece in pieces for token in piece.tokens],
        [delta for piece in pieces for delta in piece.tools or ()],
        next((piece.finish for piece in reversed(pieces) if piece.finish), None),
    )


_chat = msgspec.json.Decoder(_Chat)
_bare_chat = msgspec.json.Decoder(_BareChat)
_completion = msgspec.json.Decoder(_Completion)
_error = msgspec.json.Decoder(dict[str, Any])

_CHAT_KINDS = frozenset({"chat.completion", "chat.completion.chunk"})


class UnknownAnswer(ValueError):
    """The worker sent something that is no answer of this route."""


def parse_chat(data: bytes, bare: bool) -> Parsed:
    """Read a chat answer or chunk; `bare` leaves out what the client did not ask for.

    Raises `UnknownAnswer` for anything that is not known, so that nothing passes unjudged.
    """
    try:
        answer = (_bare_chat if bare else _chat).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownAnswer(str(error)) from None
    if answer.error is not None:
        return Parsed([], None, answer.error)
    if answer.object not in _CHAT_KINDS or answer.choices is None:
        raise UnknownAnswer(f"object {answer.object!r} is no chat answer")
    return Parsed([_chat_part(choice) for choice in answer.choices], answer.usage)


def _chat_part(choice: _ChatChoice | _BareChatChoice) -> Part:
    text = choice.message or choice.delta
    if text is None:
        raise UnknownAnswer("a choice without message or delta")
    texts: list[tuple[Field, str]] = []
    reasoning = text.reasoning or text.reasoning_content
    if reasoning:
        texts.append(("reasoning", reasoning))
    if text.content:
        texts.append(("content", text.content))
    if text.refusal:
        texts.append(("refusal", text.refusal))
    tokens: Sequence[Token | BareToken] = ()
    if choice.logprobs is not None and choice.logprobs.content:
        tokens = choice.logprobs.content
    return Part(choice.index, texts, tokens, text.tool_calls or None, choice.finish_reason)


def parse_completion(data: bytes, bare: bool) -> Parsed:
    """Read a text completion or a chunk of one; raises `UnknownAnswer` like `parse_chat`."""
    try:
        answer = _completion.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownAnswer(str(error)) from None
    if answer.error is not None:
        return Parsed([], None, answer.error)
    if answer.object != "text_completion" or answer.choices is None:
        raise UnknownAnswer(f"object {answer.object!r} is no text completion")
    parts = [
        Part(
            choice.index,
            [("content", choice.text)] if choice.text else [],
            _completion_tokens(choice.logprobs, bare) if choice.logprobs else (),
            None,
            choice.finish_reason,
        )
        for choice in answer.choices
    ]
    return Parsed(parts, answer.usage)


def _completion_tokens(logprobs: _CompletionLogprobs, bare: bool) -> Sequence[Token | BareToken]:
    if logprobs.content is not None:
        return logprobs.content
    # The first token of an echoed prompt has no logprob: 0 keeps the positions aligned.
    pairs = [
        (token, 0.0 if value is None else value)
        for token, value in zip(logprobs.tokens, logprobs.token_logprobs, strict=False)
    ]
    if bare:
        return [BareToken(token, value) for token, value in pairs]
    tops = logprobs.top_logprobs or [None] * len(pairs)
    return [
        Token(token, value, None, [Top(t, v) for t, v in (top or {}).items()])
        for (token, value), top in zip(pairs, tops, strict=False)
    ]


def parse_error(status: int, data: bytes) -> WorkerError:
    """Read a worker's error answer; one that cannot be read gives an empty message."""
    try:
        body = _error.decode(data)
        inner = body.get("error", body)
        return msgspec.convert(inner, WorkerError, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return WorkerError("", status)
