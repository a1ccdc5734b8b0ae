"""The way of a request, read from top to bottom.

`endpoints.py` authenticates and admits; then here: resolve -> input guards -> choose worker ->
relay -> output guards -> confidence -> record.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial

from gateway.errors import (
    GatewayError,
    GuardsUnavailable,
    NoWorker,
    Saturated,
    UpstreamFailed,
)
from gateway.registry.snapshot import Version
from gateway.serving.affinity import affinity
from gateway.serving.attempts import verdict
from gateway.serving.call import Call, Draft
from gateway.serving.events import Event
from gateway.serving.ids import cache_salt, mint
from gateway.serving.keeper import SnapshotKeeper
from gateway.serving.options import apply, ask_for_logprobs
from gateway.serving.prompts import InputQuestion
from gateway.serving.recorder import Recorder
from gateway.serving.relay import Emit, relay
from gateway.serving.resolve import alias_of, resolve, shadow_of
from gateway.serving.router import Router
from gateway.serving.shadow import Shadows
from gateway.serving.turn import Turn
from gateway.serving.upstream import Upstream, UpstreamError
from gateway.serving.waiting import Resort
from gateway.settings import GatewaySettings
from guardrails.client import JudgeClient
from guardrails.errors import GuardUnavailable
from guardrails.policy import Policy
from guardrails.policy_book import PolicyBook
from guardrails.stream import OutputGuard

logger = logging.getLogger(__name__)


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
    shadows: Shadows


def begin(call: Call, deps: Deps) -> Draft:
    """Resolve who answers, and open the record. Raises `ModelNotFound` or `NoWorker`."""
    snapshot = deps.keeper.snapshot
    alias = alias_of(call.model, call.key, snapshot)
    version = resolve(call.model, alias, call.session, snapshot)
    apply(alias.options, call)
    ask_for_logprobs(alias.options, deps.settings.logprobs, call)
    # Who pins a version wants that one or none.
    fallbacks = [] if "@" in call.model else snapshot.fallbacks(alias)
    others = [other for other in fallbacks if other.id != version.id]
    draft = Draft(call, version, _id_for(version, call, deps), call.standing, others)
    if alias.shadow:
        draft.shadow = shadow_of(call.model, alias, version, call.key)
    return draft


def _id_for(version: Version, call: Call, deps: Deps) -> str:
    return mint(call.id_prefix, deps.secret, call.key.tenant, version.id)


async def complete(draft: Draft, deps: Deps, emit: Emit) -> None:
    """Answer a call: judged events go to `emit`, some at a time, as they may be sent.

    Raises a `GatewayError` when nothing was emitted yet, or `UpstreamFailed` when the worker broke
    off in the middle. Cancelling aborts the worker's call. Whatever happens, the call is recorded
    once.
    """
    policy = deps.policies.policy_for(draft.alias, str(draft.call.key.id))
    question = InputQuestion(draft, policy, deps.judge)

    async def send(events: list[Event]) -> None:
        if not draft.sent:
            await question.answered()
            draft.sent = True
        await emit(events)

    try:
        await question.ask()
        draft.encode(cache_salt(deps.secret, draft.call.key.tenant))
        while True:
            try:
                await _serve(draft, policy, deps, send)
                break
            except (NoWorker, Saturated, UpstreamFailed) as error:
                _fall_back(draft, error, policy, deps)
        draft.outcome = "ok"
    except GuardUnavailable as error:
        draft.outcome = GuardsUnavailable.code or ""
        if not draft.sent or draft.turn is None:
            raise GuardsUnavailable from error
        await emit(draft.turn.withhold())
    except GatewayError as error:
        draft.outcome = _outcome(draft, error)
        raise
    finally:
        await question.close()
        _record(draft, policy, deps)


def _record(draft: Draft, policy: Policy, deps: Deps) -> None:
    """Record a call that is over, and have it copied where it was drawn for that."""
    deps.recorder.put(draft)
    if draft.shadow is not None:
        deps.shadows.follow(draft, draft.shadow, policy)


def _outcome(draft: Draft, error: GatewayError) -> str:
    """Name what became of a call; one that a worker refused, and no other could take, failed."""
    if isinstance(error, NoWorker | Saturated) and draft.attempts.refusals:
        return UpstreamFailed.code
    return error.code or error.type


async def _serve(draft: Draft, policy: Policy, deps: Deps, send: Emit) -> None:
    """Have the draft's version answer, on another worker too while nothing was sent.

    Raises `NoWorker`, `Saturated` and `UpstreamFailed`.
    """
    deadline = asyncio.get_running_loop().time() + _patience(draft, deps)
    while True:
        try:
            return await _attempt(draft, policy, deadline, deps, send)
        except UpstreamError as error:
            assert draft.target is not None  # noqa: S101 (an attempt has failed: there was one)
            worker = draft.target.worker.name
            draft.attempts.failed(worker, error, deps.router, sent=draft.sent)


def _patience(draft: Draft, deps: Deps) -> float:
    """Give the seconds to wait for a worker: few where another version could answer now."""
    timeouts, router = deps.settings.timeouts, deps.router
    if _could_stand_in(draft, router):
        return timeouts.fallback_wait if router.expects(draft.version) else 0.0
    return timeouts.worker_wait if draft.wanted is None else timeouts.fallback_wait


def _could_stand_in(draft: Draft, router: Router) -> bool:
    return any(router.ready(version) for version in draft.fallbacks)


def _resort(draft: Draft, deps: Deps) -> Resort | None:
    """Tell the queue of the rest of the chain; a fallback waits there as part of one."""
    if draft.wanted is None and not draft.fallbacks:
        return None
    ready = partial(_could_stand_in, draft, deps.router)
    return Resort(deps.settings.timeouts.fallback_wait, ready)


def _fall_back(
    draft: Draft, error: NoWorker | Saturated | UpstreamFailed, policy: Policy, deps: Deps
) -> None:
    """Go on with the alias's next fallback; raises `error` where there is none, or too late."""
    if draft.sent or not draft.fallbacks:
        raise error
    outcome = _outcome(draft, error)
    if outcome == UpstreamFailed.code:
        # A record of its own, as without a fallback: the failure is that version's. The guards'
        # findings go with the answer, lest one question be reviewed twice.
        _record(replace(draft, outcome=outcome, audit=[]), policy, deps)
    version = draft.fallbacks.pop(0)
    logger.info("%s answers in the place of %s: %s", version.model, draft.model, error)
    draft.falls_back(version, _id_for(version, draft.call, deps))


async def _attempt(
    draft: Draft,
    policy: Policy,
    deadline: float,
    deps: Deps,
    send: Emit,
) -> None:
    """Choose a worker and relay its answer through the guards. Raises `UpstreamError`."""
    call, router = draft.call, deps.router
    guard = OutputGuard(policy, deps.judge, versions=deps.judge.versions)
    turn = Turn(guard, wants_tokens=call.wants_tokens, unary=not call.stream)
    again = affinity(call, draft.version)
    target = await router.begin(
        draft.version,
        again,
        deadline,
        draft.attempts.avoid,
        draft.standing,
        _resort(draft, deps),
    )
    draft.tries(target, turn)
    answered: bool | None = None
    try:
        rest = await relay(draft, target, turn, deps.upstream, send)
        answered = True
        await send(rest + await turn.end())
    except (UpstreamError, UpstreamFailed) as error:
        answered = verdict(error)
        raise
    finally:
        router.end(target, answered)
        draft.judged(guard)
