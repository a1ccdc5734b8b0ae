"""`/v1/completions`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from gateway.errors import GatewayError, InvalidRequest
from gateway.serving.answers import BareToken, Token, Usage
from gateway.serving.call import Draft
from gateway.serving.events import Event, Finished, TextReleased, ToolCalled, Used
from gateway.serving.forms import base
from gateway.serving.requests import CompletionRequest, decode
from gateway.settings import Limits

_decoder = msgspec.json.Decoder(CompletionRequest)


class CompletionForm:
    """Reads text completion requests and writes text completions."""

    route: ClassVar[str] = "completions"
    id_prefix: ClassVar[str] = "cmpl-"

    def read(self, body: bytes, limits: Limits) -> base.ReadRequest:
        """Read a completion request."""
        request = decode(_decoder, body)
        if request.best_of is not None and request.best_of != (request.n or 1):
            raise InvalidRequest("'best_of' is not supported here; leave it out.", param="best_of")
        if request.suffix is not None:
            raise InvalidRequest("'suffix' is not supported here; leave it out.", param="suffix")
        request.best_of = None
        if not request.prompt:
            raise InvalidRequest("'prompt' must not be empty.", param="prompt")
        base.check_limits(request, limits)
        prompts = 1
        if isinstance(request.prompt, list) and not isinstance(request.prompt[0], int):
            prompts = len(request.prompt)
        if prompts * (request.n or 1) > limits.max_n:
            raise InvalidRequest(
                f"Prompts times 'n' may be at most {limits.max_n} here.", param="prompt"
            )
        identifiers = base.identifiers(request)
        flex = request.service_tier == "flex"
        stream = bool(request.stream)
        wants_usage = base.ready_for_worker(request)
        wants_tokens = request.logprobs is not None
        request.logprobs = request.logprobs or 0
        return base.ReadRequest(
            model=request.model,
            request=request,
            identifiers=identifiers,
            stream=stream,
            wants_tokens=wants_tokens,
            wants_usage=wants_usage,
            expected_choices=prompts * (request.n or 1),
            flex=flex,
        )

    def writer(self, draft: Draft) -> base.Writer:
        """Make the writer of one answer."""
        return CompletionWriter(draft)


class CompletionWriter:
    """Writes one text completion."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._offsets: dict[int, int] = {}
        self._head = {
            "id": draft.id,
            "object": "text_completion",
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
            choice = choices.setdefault(event.choice, self._choice(event.choice, "", ()))
            if isinstance(event, TextReleased):
                choice["text"] += event.text
                _extend(choice["logprobs"], self._logprobs(event.choice, event.tokens))
            elif isinstance(event, Finished):
                choice["finish_reason"] = event.reason
        listed = [choices[index] for index in sorted(choices)]
        return base.encode({**self._head, "choices": listed, "usage": usage.as_dict()})

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def event(self, event: Event) -> bytes:
        """Give the chunk for one event."""
        if isinstance(event, ToolCalled):
            return b""
        if isinstance(event, Used):
            if not self._draft.call.wants_usage:
                return b""
            return base.sse({**self._head, "choices": [], "usage": event.usage.as_dict()})
        if isinstance(event, TextReleased):
            choice = self._choice(event.choice, event.text, event.tokens)
        else:
            choice = {"index": event.choice, "text": "", "logprobs": None}
            choice["finish_reason"] = event.reason
        return base.sse({**self._head, "choices": [choice]})

    def closing(self) -> bytes:
        """Give the end mark."""
        return base.DONE

    def failure(self, error: GatewayError) -> bytes:
        """Give an error event."""
        return base.failure(error)

    def _choice(self, index: int, text: str, tokens: Sequence[Token | BareToken]) -> dict[str, Any]:
        logprobs = self._logprobs(index, tokens) if self._draft.call.wants_tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, index: int, tokens: Sequence[Token | BareToken]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        offset = self._offsets.get(index, 0)
        for token in tokens:
            if isinstance(token, Token):
                out["tokens"].append(token.token)
                out["token_logprobs"].append(token.logprob)
                out["top_logprobs"].append(
                    {top.token: top.logprob for top in token.top_logprobs or ()}
                )
                out["text_offset"].append(offset)
                offset += len(token.token)
        self._offsets[index] = offset
        return out


def _extend(logprobs: dict[str, list[Any]] | None, more: dict[str, list[Any]]) -> None:
    if logprobs is not None:
        for name, values in more.items():
            logprobs[name] += values
