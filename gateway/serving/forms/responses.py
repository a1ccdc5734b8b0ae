"""`/v1/responses`: OpenAI's Responses API, written from the same judged events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from gateway.errors import GatewayError
from gateway.serving.answers import BareToken, Token, Usage
from gateway.serving.call import Draft
from gateway.serving.events import Event, Finished, TextReleased, ToolCalled, Used
from gateway.serving.forms import base
from gateway.serving.forms.chat import prepare, token_list
from gateway.serving.forms.responses_request import (
    LOGPROBS,
    ResponsesRequest,
    as_chat,
    refuse_unsupported,
)
from gateway.serving.requests import decode
from gateway.settings import Limits

_decoder = msgspec.json.Decoder(ResponsesRequest)
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesForm:
    """Reads requests of the Responses API and writes responses."""

    route: ClassVar[str] = "responses"
    id_prefix: ClassVar[str] = "resp_"

    def read(self, body: bytes, limits: Limits) -> base.ReadRequest:
        """Read a request."""
        request = decode(_decoder, body)
        refuse_unsupported(request)
        wants_tokens = LOGPROBS in (request.include or ())
        read = prepare(as_chat(request), limits, wants_tokens)
        read.extra = request
        read.wants_usage = True
        return read

    def writer(self, draft: Draft) -> base.Writer:
        """Make the writer of one answer."""
        return ResponsesWriter(draft)


class ResponsesWriter:
    """Writes one response; a stream is the same items, event by event."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        self._message: dict[str, Any] | None = None
        self._finish: str | None = None
        self._usage = Usage()

    def unary(self, events: Iterable[Event]) -> bytes:
        """Give the whole body."""
        for event in events:
            self.event(event)
        self._close_message()
        return base.encode(self._response())

    def opening(self) -> bytes:
        """Give `response.created` and `response.in_progress`."""
        response = self._response(status="in_progress")
        return self._sse("response.created", response=response) + self._sse(
            "response.in_progress", response=response
        )

    def event(self, event: Event) -> bytes:
        """Give the events for one event."""
        match event:
            case TextReleased(field="content" | "refusal"):
                return self._text(event.text, event.tokens)
            case TextReleased():
                return b""
            case ToolCalled():
                return self._close_message() + self._tool(event)
            case Finished():
                self._finish = event.reason
                return self._close_message()
            case Used():
                self._usage = event.usage
                return b""

    def closing(self) -> bytes:
        """Give the last event, with the whole response."""
        out = self._close_message()
        response = self._response()
        return out + self._sse(f"response.{response['status']}", response=response)

    def failure(self, error: GatewayError) -> bytes:
        """Give `response.failed` and an error event, which is what the client raises on."""
        response = self._response(status="failed")
        response["error"] = {"code": "server_error", "message": error.message}
        return self._sse("response.failed", response=response) + self._sse(
            "error", code=error.code, message=error.message, param=error.param
        )

    def _text(self, text: str, tokens: Sequence[Token | BareToken]) -> bytes:
        out = b""
        if self._message is None:
            out = self._open_message()
        message = self._message or {}
        logprobs = [
            {name: token[name] for name in ("token", "logprob", "bytes", "top_logprobs")}
            for token in token_list(tokens)
        ]
        part = message["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        return out + self._sse(
            "response.output_text.delta",
            item_id=message["id"],
            output_index=len(self._items) - 1,
            content_index=0,
            delta=text,
            logprobs=logprobs,
        )

    def _open_message(self) -> bytes:
        part: dict[str, Any] = {
            "type": "output_text",
            "text": "",
            "annotations": [],
            "logprobs": [],
        }
        self._message = {
            "id": self._item_id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._items.append(self._message)
        index = len(self._items) - 1
        out = self._sse("response.output_item.added", output_index=index, item=self._message)
        out += self._sse(
            "response.content_part.added",
            item_id=self._message["id"],
            output_index=index,
            content_index=0,
            part=part,
        )
        self._message["content"].append(part)
        return out

    def _close_message(self) -> bytes:
        message, self._message = self._message, None
        if message is None:
            return b""
        message["status"] = "incomplete" if self._finish in _INCOMPLETE else "completed"
        part = message["content"][0]
        where = {
            "item_id": message["id"],
            "output_index": len(self._items) - 1,
            "content_index": 0,
        }
        return (
            self._sse(
                "response.output_text.done",
                **where,
                text=part["text"],
                logprobs=part["logprobs"],
            )
            + self._sse("response.content_part.done", **where, part=part)
            + self._sse(
                "response.output_item.done", output_index=where["output_index"], item=message
            )
        )

    def _tool(self, event: ToolCalled) -> bytes:
        item = {
            "id": self._item_id("fc"),
            "type": "function_call",
            "call_id": event.id,
            "name": event.name,
            "arguments": "",
            "status": "in_progress",
        }
        self._items.append(item)
        index = len(self._items) - 1
        out = self._sse("response.output_item.added", output_index=index, item=item)
        item["arguments"], item["status"] = event.arguments, "completed"
        where = {"item_id": item["id"], "output_index": index}
        return (
            out
            + self._sse("response.function_call_arguments.delta", **where, delta=event.arguments)
            + self._sse(
                "response.function_call_arguments.done",
                **where,
                name=event.name,
                arguments=event.arguments,
            )
            + self._sse("response.output_item.done", output_index=index, item=item)
        )

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._draft.id.removeprefix('resp_')}{len(self._items):02x}"

    def _sse(self, kind: str, **fields: Any) -> bytes:
        if not self._draft.call.stream:
            return b""
        payload = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: " + kind.encode() + b"\n" + base.sse(payload)

    def _response(self, status: str | None = None) -> dict[str, Any]:
        asked: ResponsesRequest = self._draft.call.extra
        reason = _INCOMPLETE.get(self._finish or "")
        final = status is None
        status = status or ("incomplete" if reason else "completed")
        usage = {
            "input_tokens": self._usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._usage.prompt_tokens + self._usage.completion_tokens,
        }
        return {
            "id": self._draft.id,
            "object": "response",
            "created_at": self._draft.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason and final else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self._draft.model,
            "output": self._items,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": asked.text or {"format": {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": asked.truncation or "disabled",
            "usage": usage if final else None,
            "user": asked.user,
        }
