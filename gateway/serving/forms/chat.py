"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from gateway.errors import GatewayError, InvalidRequest
from gateway.serving.answers import BareToken, Token, Usage
from gateway.serving.call import Draft
from gateway.serving.events import Event, Finished, TextReleased, ToolCalled, Used
from gateway.serving.forms import base
from gateway.serving.requests import ChatRequest, decode
from gateway.settings import Limits
from guardrails.types import Field

_decoder = msgspec.json.Decoder(ChatRequest)
_NAMES: dict[Field, str] = {
    "content": "content",
    "reasoning": "reasoning_content",
    "refusal": "refusal",
}


class ChatForm:
    """Reads chat requests and writes chat completions."""

    route: ClassVar[str] = "chat.completions"
    id_prefix: ClassVar[str] = "chatcmpl-"

    def read(self, body: bytes, limits: Limits) -> base.ReadRequest:
        """Read a chat request."""
        request = decode(_decoder, body)
        wants_tokens = bool(request.logprobs)
        if request.top_logprobs is not None and not wants_tokens:
            raise InvalidRequest(
                "'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs"
            )
        return prepare(request, limits, wants_tokens)

    def writer(self, draft: Draft) -> base.Writer:
        """Make the writer of one answer."""
        return ChatWriter(draft)


def prepare(request: ChatRequest, limits: Limits, wants_tokens: bool) -> base.ReadRequest:
    """Check a chat request and make it ready for the worker."""
    if not request.messages:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    for index, message in enumerate(request.messages):
        if message.content is None and message.role != "assistant":
            raise InvalidRequest(
                f"Missing required parameter: 'messages[{index}].content'.",
                param=f"messages[{index}].content",
                code="missing_required_parameter",
            )
    base.check_limits(request, limits)
    identifiers = base.identifiers(request)
    flex = request.service_tier == "flex"
    stream = bool(request.stream)
    wants_usage = base.ready_for_worker(request)
    request.logprobs = True
    return base.ReadRequest(
        model=request.model,
        request=request,
        identifiers=identifiers,
        stream=stream,
        wants_tokens=wants_tokens,
        wants_usage=wants_usage,
        expected_choices=request.n or 1,
        flex=flex,
    )


class ChatWriter:
    """Writes one chat completion."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._begun: set[int] = set()
        self._head = {
            "id": draft.id,
            "object": "chat.completion.chunk",
            "created": draft.created,
            "model": draft.model,
            "system_fingerprint": draft.model,
        }

    def unary(self, events: Iterable[Event]) -> bytes:
        """Give the whole body."""
        choices: dict[int, dict[str, Any]] = {}
        usage = Usage()
        for event in events:
            if isinstance(event, Used):
                usage = event.usage
                continue
            choice = choices.get(event.choice)
            if choice is None:
                choice = choices[event.choice] = _empty_choice(event.choice, self._draft)
            _add(choice, event)
        body = {**self._head, "object": "chat.completion"}
        body["choices"] = [choices[index] for index in sorted(choices)]
        body["usage"] = usage.as_dict()
        return base.encode(body)

    def opening(self) -> bytes:
        """Nothing: each choice opens with its own first chunk."""
        return b""

    def event(self, event: Event) -> bytes:
        """Give the chunks for one event."""
        if isinstance(event, Used):
            if not self._draft.call.wants_usage:
                return b""
            return base.sse({**self._head, "choices": [], "usage": event.usage.as_dict()})
        out = b""
        if event.choice not in self._begun:
            self._begun.add(event.choice)
            out = self._chunk(event.choice, {"role": "assistant", "content": ""})
        if isinstance(event, TextReleased):
            logprobs = token_list(event.tokens) if self._draft.call.wants_tokens else None
            return out + self._chunk(event.choice, {_NAMES[event.field]: event.text}, logprobs)
        if isinstance(event, ToolCalled):
            return out + self._chunk(event.choice, {"tool_calls": [_tool(event, stream=True)]})
        return out + self._chunk(event.choice, {}, finish=event.reason)

    def closing(self) -> bytes:
        """Give the end mark."""
        return base.DONE

    def failure(self, error: GatewayError) -> bytes:
        """Give an error event."""
        return base.failure(error)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        tokens: list[dict[str, Any]] | None = None,
        finish: str | None = None,
    ) -> bytes:
        logprobs = None if tokens is None else {"content": tokens, "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        body: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._draft.call.wants_usage:
            body["usage"] = None
        return base.sse(body)


def _empty_choice(index: int, draft: Draft) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": None, "refusal": None},
        "logprobs": {"content": [], "refusal": None} if draft.call.wants_tokens else None,
        "finish_reason": None,
    }


def _add(choice: dict[str, Any], event: TextReleased | ToolCalled | Finished) -> None:
    message = choice["message"]
    if isinstance(event, TextReleased):
        name = _NAMES[event.field]
        message[name] = (message.get(name) or "") + event.text
        if choice["logprobs"] is not None:
            choice["logprobs"]["content"] += token_list(event.tokens)
    elif isinstance(event, ToolCalled):
        message.setdefault("tool_calls", []).append(_tool(event))
    else:
        choice["finish_reason"] = event.reason
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""


def _tool(event: ToolCalled, stream: bool = False) -> dict[str, Any]:
    tool: dict[str, Any] = {
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": event.arguments},
    }
    return {"index": event.index, **tool} if stream else tool


def token_list(tokens: Sequence[Token | BareToken]) -> list[dict[str, Any]]:
    """Write logprobs as OpenAI's chat API does."""
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "bytes": token.bytes,
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": top.bytes}
                for top in token.top_logprobs or ()
            ],
        }
        for token in tokens
        if isinstance(token, Token)
    ]
