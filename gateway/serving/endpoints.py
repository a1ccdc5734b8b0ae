"""The serving routes as plain ASGI endpoints: authenticate, admit, answer."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod

from starlette.types import Receive, Scope, Send

from gateway.errors import GatewayError, PermissionDenied
from gateway.registry.snapshot import Key
from gateway.serving.call import Call, Draft
from gateway.serving.events import Event
from gateway.serving.forms import base
from gateway.serving.http import (
    ClientGone,
    Header,
    cancelled_when_gone,
    header,
    read_body,
    send_error,
    send_json,
    start,
)
from gateway.serving.pipeline import begin, complete
from gateway.serving.state import Serving
from gateway.serving.waiting import queue_headers

logger = logging.getLogger(__name__)

_ROLES = frozenset({"app", "admin", "trainer"})
_SSE: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Endpoint(ABC):
    """One serving route: every request gets an id and is counted, errors get OpenAI's body."""

    def __init__(self, route: str, serving: Serving) -> None:
        self.route = route
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = f"req_{random.getrandbits(128):032x}"
        headers: list[Header] = [(b"x-request-id", request_id.encode())]
        status = 200
        try:
            await self.answer(scope, receive, send, request_id, headers)
        except ClientGone:
            status = 499
        except GatewayError as error:
            status = error.status
            await send_error(send, error, headers)
        except Exception:
            logger.exception("request %s failed", request_id)
            status = 500
            await send_error(send, GatewayError("Something went wrong in the gateway."), headers)
        finally:
            self._serving.metrics.request(self.route, status)

    @abstractmethod
    async def answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, headers: list[Header]
    ) -> None:
        """Answer with these headers and more; an error must come before anything was sent."""

    def caller(self, scope: Scope) -> Key:
        """Authenticate, before the body is read, so that strangers cost little."""
        key = self._serving.authenticate_header(header(scope, b"authorization"))
        if key.role not in _ROLES:
            raise PermissionDenied(
                f"A key with the role '{key.role}' cannot call models; use an 'app' key."
            )
        return key


class ServingEndpoint(Endpoint):
    """Answers one route of those that make text, in its form."""

    def __init__(self, form: base.Form, serving: Serving) -> None:
        super().__init__(form.route, serving)
        self._form = form

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, headers: list[Header]
    ) -> None:
        call = await self._read(scope, receive, request_id)
        with self._serving.admitted():
            draft = begin(call, self._serving.deps)
            likely = call.likely_tokens
            try:
                async with self._serving.granted(call.key, likely, headers, lambda: draft.tokens):
                    if call.stream:
                        await self._stream(draft, scope, send, headers)
                    else:
                        await self._unary(draft, scope, send, headers)
            except GatewayError:
                headers += _versions(draft)
                raise

    async def _read(self, scope: Scope, receive: Receive, request_id: str) -> Call:
        key = self.caller(scope)
        limits = self._serving.settings.limits
        body = await read_body(receive, limits.max_body_bytes)
        read = self._form.read(body, limits)
        return Call(
            route=self._form.route,
            id_prefix=self._form.id_prefix,
            key=key,
            model=read.model,
            request=read.request,
            asked=body,
            request_id=request_id,
            session=base.session_of(read, header(scope, b"x-session-id")),
            stream=read.stream,
            wants_tokens=read.wants_tokens,
            wants_usage=read.wants_usage,
            expected_choices=read.expected_choices,
            flex=read.flex,
            extra=read.extra,
            cap=limits.max_tokens,
        )

    async def _unary(self, draft: Draft, scope: Scope, send: Send, headers: list[Header]) -> None:
        collected: list[Event] = []

        async def collect(events: list[Event]) -> None:
            collected.extend(events)

        with cancelled_when_gone(scope):
            await complete(draft, self._serving.deps, collect)
        body = self._form.writer(draft).unary(collected)
        self._serving.metrics.answered(draft)
        await send_json(send, body, [*headers, *_told(draft), *_verdicts(draft)])

    async def _stream(self, draft: Draft, scope: Scope, send: Send, headers: list[Header]) -> None:
        writer: base.Writer | None = None

        async def forward(events: list[Event]) -> None:
            nonlocal writer
            data = b""
            if writer is None:
                # Not before the first event: until then a failure has a status of its own, and
                # another version may answer.
                writer = self._form.writer(draft)
                await start(send, 200, [*_SSE, *headers, *_told(draft)])
                data = writer.opening()
            data += b"".join([writer.event(event) for event in events])
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            with cancelled_when_gone(scope):
                await complete(draft, self._serving.deps, forward)
            last = writer.closing() if writer is not None else b""
        except GatewayError as error:
            if writer is None:
                raise
            logger.warning("stream %s broke off: %s", draft.id, error)
            last = writer.failure(error)
        self._serving.metrics.answered(draft)
        await send({"type": "http.response.body", "body": last})


def _told(draft: Draft) -> list[Header]:
    """Tell what is known of an answer as it begins."""
    return [*_versions(draft), *queue_headers(draft.standing)]


def _versions(draft: Draft) -> list[Header]:
    """Tell which version answers, and in whose place where it is a fallback."""
    headers = [(b"x-adapter-version", draft.model.encode())]
    if draft.wanted is not None:
        headers.append((b"x-fallback-from", draft.wanted.model.encode()))
    return headers


def _verdicts(draft: Draft) -> list[Header]:
    """Tell of a unary answer how sure the model was and what the guards did."""
    headers: list[Header] = []
    turn = draft.turn
    first = turn.choices.get(0) if turn is not None else None
    confidence = first.confidence if first is not None else None
    if confidence is not None:
        headers.append((b"x-confidence", f"{confidence.mean:.4f}".encode()))
    actions = {entry.action for entry in draft.audit}
    verdict = next((a for a in ("block", "redact", "flag", "annotate") if a in actions), "pass")
    headers.append((b"x-guardrails", verdict.encode()))
    return headers
