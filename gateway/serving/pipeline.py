"""The way of a request, read from top to bottom.

`endpoints.py` authenticates and admits; then here: resolve -> input guards -> choose worker ->
relay -> output guards -> confidence -> record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from gateway.errors import (
    ContentPolicyViolation,
    GatewayError,
    GuardsUnavailable,
    UpstreamFailed,
)
from gateway.serving.call import Call, Draft
from gateway.serving.events import Event
from gateway.serving.ids import mint
from gateway.serving.keeper import SnapshotKeeper
from gateway.serving.prompts import slots_of
from gateway.serving.recorder import Recorder
from gateway.serving.relay import WorkerRefused, messages
from gateway.serving.resolve import alias_of, resolve
from gateway.serving.router import Router
from gateway.serving.turn import Turn
from gateway.serving.upstream import Upstream, UpstreamError, UpstreamTimeout
from gateway.settings import GatewaySettings
from gateway.workers.probe import Observed
from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.policy import Policy
from guardrails.policy_book import PolicyBook
from guardrails.stream import InputGuard, OutputGuard

_encode = msgspec.json.Encoder().encode
_REFUSALS = 2


@dataclass(slots=True)
class Deps:
    """What the stages of a request need; built once, by the lifespan."""

    settings: GatewaySettings
    keeper: SnapshotKeeper
    secret: bytes
    router: Router
    upstream: Upstream
    judge: JudgeClient
    policies: PolicyBook
    recorder: Recorder


def begin(call: Call, deps: Deps) -> Draft:
    """Resolve who answers, and open the record. Raises `ModelNotFound` or `NoWorker`."""
    snapshot = deps.keeper.snapshot
    alias = alias_of(call.model, call.key, snapshot)
    version = resolve(call.model, alias, call.session, snapshot)
    response_id = mint(call.id_prefix, deps.secret, call.key.tenant, version.id)
    return Draft(call, version, response_id)


async def complete(draft: Draft, deps: Deps) -> AsyncGenerator[Event, None]:
    """Answer a call: judged events, as they may be sent.

    Raises a `GatewayError` when nothing was yielded yet, or `UpstreamFailed` when the worker broke
    off in the middle. Closing the generator aborts the worker's call. Whatever happens, the call
    is recorded once.
    """
    call = draft.call
    policy = deps.policies.policy_for(draft.version.alias, str(call.key.id))
    try:
        await _judge_input(draft, policy, deps)
        body = _encode_for_worker(draft, deps)
        async with aclosing(_attempts(draft, policy, body, deps)) as events:
            async for event in events:
                draft.sent = True
                yield event
        draft.outcome = "ok"
    except GuardUnavailable as error:
        draft.outcome = GuardsUnavailable.code or ""
        if not draft.sent or draft.turn is None:
            raise GuardsUnavailable from error
        for event in await draft.turn.withhold():
            yield event
    except GatewayError as error:
        draft.outcome = error.code or error.type
        raise
    finally:
        deps.recorder.put(draft)


async def _attempts(
    draft: Draft, policy: Policy, body: bytes, deps: Deps
) -> AsyncGenerator[Event, None]:
    """Ask workers until one answers; another is tried only while nothing has been sent."""
    call, router = draft.call, deps.router
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deps.settings.timeouts.worker_wait
    avoid: dict[str, Observed | None] = {}
    refusals = 0
    while True:
        session = call.session or call.request_id
        target = draft.target = await router.target(draft.version, session, deadline, avoid)
        seen = router.observed(target.worker.name)
        try:
            async with aclosing(_answer(draft, policy, body, deps)) as events:
                async for event in events:
                    yield event
            return
        except UpstreamError as error:
            router.suspect(target.worker.name)
            slow = isinstance(error, UpstreamTimeout)
            refusals += slow or isinstance(error, WorkerRefused)
            if draft.sent or refusals >= _REFUSALS:
                raise UpstreamFailed(f"The worker failed while answering: {error}.") from error
            avoid[target.worker.name] = None if slow else seen


async def _answer(
    draft: Draft, policy: Policy, body: bytes, deps: Deps
) -> AsyncGenerator[Event, None]:
    """Relay one worker's answer through the guards."""
    call, target = draft.call, draft.target
    assert target is not None  # noqa: S101 (set by the caller; for the type checker)
    guard = OutputGuard(policy, deps.judge, versions=deps.judge.versions)
    turn = draft.turn = Turn(guard, wants_tokens=call.wants_tokens, unary=not call.stream)
    path = "/v1/chat/completions" if call.is_chat else "/v1/completions"
    payload = body.replace(_MODEL_MARK, _encode(target.name), 1)
    try:
        with deps.router.in_flight(target):
            async with (
                deps.upstream.post(target.worker, path, payload) as answer,
                aclosing(
                    messages(
                        answer,
                        target,
                        draft.model,
                        chat=call.is_chat,
                        bare=not call.wants_tokens,
                        stream=call.stream,
                    )
                ) as parsed,
            ):
                async for message in parsed:
                    draft.note_first_token()
                    for event in await turn.take(message):
                        yield event
                    if turn.cut_short(call.expected_choices):
                        break
        for event in await turn.end():
            yield event
    finally:
        draft.judged(guard)


async def _judge_input(draft: Draft, policy: Policy, deps: Deps) -> None:
    """Let the input guards see what came from outside; blocked input is a 400."""
    if not policy.input.rules:
        return
    slots = slots_of(draft.call.request)
    guard = InputGuard(policy, deps.judge, versions=deps.judge.versions)
    verdict = await guard.check([slot.text for slot in slots])
    draft.audit += verdict.audit
    draft.flagged |= verdict.flagged
    if verdict.blocked is not None:
        raise ContentPolicyViolation
    for slot, text in zip(slots, verdict.texts, strict=True):
        if text is not slot.text:
            slot.replace(text)


_MODEL_MARK = b'"\\u0000model"'


def _encode_for_worker(draft: Draft, deps: Deps) -> bytes:
    """Write the worker's request once; its name for the model is put in for each worker."""
    request = draft.call.request
    request.model = "\0model"
    return _encode(request)
