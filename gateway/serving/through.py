"""Calls that make no text (embeddings, scores, tokens): limited and routed, and passed through.

No guard judges them and no answer of them is kept: what comes back is numbers, or the caller's own
words. They count in the metrics, in the usage and against the limits of their key.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.errors import ContextLengthExceeded, NotOffered, UpstreamFailed
from gateway.registry.snapshot import Version
from gateway.serving.answers import parse_error
from gateway.serving.attempts import Attempts, verdict
from gateway.serving.dialects import joined
from gateway.serving.endpoints import Endpoint
from gateway.serving.http import (
    ClientGone,
    Header,
    cancelled_when_gone,
    header,
    read_body,
    send_json,
)
from gateway.serving.ids import cache_salt
from gateway.serving.pipeline import Deps
from gateway.serving.relay import refusal
from gateway.serving.resolve import alias_of, resolve
from gateway.serving.router import Target
from gateway.serving.state import Serving
from gateway.serving.through_forms import Answer, PassForm, Request
from gateway.serving.upstream import UpstreamError
from gateway.serving.waiting import Standing, queue_headers

_encode = msgspec.json.Encoder().encode
_NO_SUCH_ROUTE = frozenset({404, 405, 501})
# Routes of the same name that take and give something else.
_OTHERWISE = {"llamacpp": frozenset({"tokenize", "detokenize"})}
_NO_SUCH_TASK = re.compile(r"does not support \w+ API", re.IGNORECASE)


@dataclass(slots=True)
class Question:
    """A call that was read, and the version that answers it; `session` finds its worker again.

    `salt` keeps a tenant's prompts apart in vLLM's prefix cache. `asked` once a worker has got it.
    """

    form: PassForm
    request: Request
    version: Version
    session: str
    standing: Standing
    salt: str
    asked: bool = False

    def body_for(self, target: Target) -> bytes:
        """Give the request as this worker is to get it."""
        self.request.model, self.request.user = target.ask.model, None
        parts = [_encode(self.request), target.ask.more]
        if target.worker.kind == "vllm" and self.form.uses_tokens:
            parts.append(_encode({"cache_salt": self.salt}))
        return joined(parts)


class PassEndpoint(Endpoint):
    """Answers one route that passes through."""

    def __init__(self, form: PassForm, serving: Serving) -> None:
        super().__init__(form.route, serving)
        self.paths = form.paths
        self._form = form

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, headers: list[Header]
    ) -> None:
        began, used = time.monotonic(), 0
        serving, limits = self._serving, self._serving.settings.limits
        key = self.caller(scope)
        body = await read_body(receive, limits.max_body_bytes)
        request = self._form.read(body, limits)
        with serving.admitted():
            deps, snapshot = serving.deps, serving.keeper.snapshot
            session = request.user or header(scope, b"x-session-id")
            alias = alias_of(request.model, key, snapshot)
            version = resolve(request.model, alias, session, snapshot)
            headers.append((b"x-adapter-version", version.model.encode()))
            standing = Standing(key.account, key.limits.priority)
            salt = cache_salt(deps.secret, key.tenant)
            question = Question(self._form, request, version, session or request_id, standing, salt)
            likely = self._form.likely_tokens(body)
            async with serving.granted(key, likely, headers, lambda: used):
                try:
                    with cancelled_when_gone(scope):
                        answer = await ask(question, deps)
                except ClientGone:
                    if question.asked:  # the worker has worked for it, and does not tell how much
                        used = likely
                        deps.recorder.count(key, alias.name, version, request_id, used)
                    raise
                used = answer.billed
                deps.recorder.count(key, alias.name, version, request_id, used)
                answer.model = version.model
                headers += queue_headers(standing)
                await send_json(send, _encode(answer), headers)
        elapsed = time.monotonic() - began
        serving.metrics.passed(self.route, key.tenant, version.model, used, elapsed)


async def ask(question: Question, deps: Deps) -> Answer:
    """Give a worker's answer; another one is tried where a worker fails.

    Raises `NotOffered` where the model has no such route, `InvalidRequest`, `NoWorker`,
    `Overloaded`, `Saturated`, or `UpstreamFailed` when two workers failed. Cancelling aborts the
    worker's call.
    """
    deadline = asyncio.get_running_loop().time() + deps.settings.timeouts.worker_wait
    attempts = Attempts()
    while True:
        target = await deps.router.begin(
            question.version, question.session, deadline, attempts.avoid, question.standing
        )
        try:
            return await _attempt(question, target, deps)
        except UpstreamError as error:
            attempts.failed(target.worker.name, error, deps.router)


async def _attempt(question: Question, target: Target, deps: Deps) -> Answer:
    """Ask one worker. Raises `UpstreamError`, and what `ask` raises for the client's faults."""
    form, answered = question.form, None
    try:
        if form.route in _OTHERWISE.get(target.worker.kind, ()):
            raise _not_offered(question)
        body, question.asked = question.body_for(target), True
        async with deps.upstream.post(target.worker, form.worker_path, body) as answer:
            data = await answer.read()
        if answer.status != 200:
            raise _failure(answer.status, data, target, question)
        parsed = form.parse(data)
        answered = True
        return parsed
    except (UpstreamError, UpstreamFailed) as error:
        answered = verdict(error)
        raise
    finally:
        deps.router.end(target, answered)


def _failure(status: int, data: bytes, target: Target, question: Question) -> Exception:
    """Tell a route that the worker lacks from a model that it has lost, which it names."""
    message, model = parse_error(status, data).message, question.version.model
    lacks = status in _NO_SUCH_ROUTE and target.ask.model not in message
    if lacks or (status < 500 and _NO_SUCH_TASK.search(message)):
        return _not_offered(question)
    failure = refusal(status, data, target, model)
    if isinstance(failure, ContextLengthExceeded):
        failure.param, _ = question.request.texts()
    return failure


def _not_offered(question: Question) -> NotOffered:
    return NotOffered(f"The model '{question.version.model}' does not offer {question.form.route}.")
