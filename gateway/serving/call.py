"""A call on its way: what was asked, by whom, and what is known of the answer so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.registry.snapshot import Key, Version
from gateway.serving.answers import Usage
from gateway.serving.attempts import Attempts
from gateway.serving.dialects import joined, translated
from gateway.serving.queue import lowered
from gateway.serving.requests import ChatRequest, CompletionRequest
from gateway.serving.router import Target
from gateway.serving.turn import Turn
from gateway.serving.waiting import Standing
from guardrails.stream import OutputGuard
from guardrails.types import AuditEntry

_encode = msgspec.json.Encoder().encode
# No client can send this name: a NUL in a model's name is refused as unknown.
_MODEL = "\0model"
_CLIENT_GONE = "client_gone"
_TYPICAL_ANSWER = 256
_SHORT_ANSWER = 16
"""What OpenAI makes of a text completion without `max_tokens`; vLLM does so too."""
_MODEL_MARK = _encode(_MODEL)


@dataclass(slots=True)
class Call:
    """A request that was read and may be answered.

    `request` goes to the worker; `asked` is the client's body, for the record. `session` is
    what a rollout sticks to; `extra` is the form's own. No choice may have more than `cap` tokens.
    """

    route: str
    id_prefix: str
    key: Key
    model: str
    request: ChatRequest | CompletionRequest
    asked: bytes
    request_id: str
    session: str | None = None
    stream: bool = False
    wants_tokens: bool = False
    wants_usage: bool = False
    expected_choices: int = 1
    flex: bool = False
    extra: Any = None
    cap: int | None = None

    @property
    def path(self) -> str:
        """The worker's route."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    @property
    def standing(self) -> Standing:
        """How the call stands where calls wait; keys that were rotated stand as one."""
        priority = self.key.limits.priority
        return Standing(self.key.account, lowered(priority) if self.flex else priority)

    @property
    def likely_tokens(self) -> int:
        """About how many tokens it will use: four bytes of the body each, and what it may say.

        A chat that names no length most often ends by itself, long before its bound.
        """
        most = self.length or min(_TYPICAL_ANSWER, self.bound or _TYPICAL_ANSWER)
        return self.prompt_tokens + most * self.expected_choices

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has."""
        return len(self.asked) // 4

    @property
    def length(self) -> int | None:
        """How many tokens a choice may have, as the client says or its alias."""
        request = self.request
        if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
            return request.max_completion_tokens
        return request.max_tokens

    @property
    def bound(self) -> int | None:
        """How many it may have where nobody says."""
        if self.cap is None or self.length is not None:
            return None
        return self.cap if self.is_chat else min(self.cap, _SHORT_ANSWER)

    def leave_unscored(self) -> None:
        """Do not ask the worker how likely its tokens were: the answer gets no confidence."""
        self.request.logprobs = None
        if isinstance(self.request, ChatRequest):
            self.request.top_logprobs = None

    @property
    def is_chat(self) -> bool:
        """Whether the worker is asked on its chat route."""
        return isinstance(self.request, ChatRequest)


@dataclass(slots=True)
class Draft:
    """The record of a call while it is being made; mutable, and owned by one request.

    `version` answers: the one that was `wanted`, which is None then, or one of its `fallbacks`.
    `shadow` gets a copy of the call once the answer has ended; `asked` is when the worker that
    answers was asked, on the monotonic clock; `attempts` were made with `version`; `dropped` are
    fields of its answer that nothing here knows, where they were looked for.
    """

    call: Call
    version: Version
    id: str
    standing: Standing
    fallbacks: list[Version] = field(default_factory=list)
    wanted: Version | None = None
    started: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    target: Target | None = None
    turn: Turn | None = None
    audit: list[AuditEntry] = field(default_factory=list)
    flagged: bool = False
    outcome: str = _CLIENT_GONE
    sent: bool = False
    attempts: Attempts = field(default_factory=Attempts)
    body: bytes = b""
    shadow: Version | None = None
    asked: float = 0.0
    dropped: set[str] = field(default_factory=set)

    @property
    def created(self) -> int:
        """Seconds since the epoch, as OpenAI's `created`."""
        return int(self.started)

    @property
    def model(self) -> str:
        """The version that answers, `support@7`."""
        return self.version.model

    @property
    def alias(self) -> str:
        """The alias that was called, which may lead to the base model."""
        return self.call.model.partition("@")[0]

    @property
    def usage(self) -> Usage | None:
        """What was used so far, as the worker counts it; None where none was asked.

        The prompt is estimated where the client left before the worker could tell.
        """
        if self.turn is None:
            return None
        known = self.turn.total
        if self.outcome == _CLIENT_GONE and not known.prompt_tokens:
            return replace(known, prompt_tokens=self.call.prompt_tokens)
        return known

    @property
    def tokens(self) -> int:
        """Tokens used so far."""
        usage = self.usage
        return usage.prompt_tokens + usage.completion_tokens if usage is not None else 0

    def encode(self, salt: str) -> None:
        """Write vLLM's request once; its name for the model is put in for each worker.

        Prompts share its prefix cache only with those of the same `salt`.
        """
        self.call.request.model = _MODEL
        self.body = joined([_encode(self.call.request), _encode({"cache_salt": salt})])

    def body_for(self, target: Target, *, bounded: bool = True) -> bytes:
        """Give the request as this worker is to get it; `bounded` with the bound it needs."""
        if target.worker.kind == "vllm":
            body = self.body.replace(_MODEL_MARK, _encode(target.name), 1)
        else:
            body = translated(self.call.request, target.worker.kind, target.ask)
        bound = self.bound_on(target) if bounded else None
        return body if bound is None else joined([body, _encode({"max_tokens": bound})])

    def bound_on(self, target: Target) -> int | None:
        """Give the length that a worker must be told, since nobody has named one.

        None where the answer ends in time by itself: with the context, or as vLLM's completions do.
        """
        own = target.context
        if target.worker.kind == "vllm" and not self.call.is_chat:
            own = _SHORT_ANSWER
        bound = self.call.bound
        return bound if bound is None or own is None or bound < own else None

    def tries(self, target: Target, turn: Turn) -> None:
        """Note the worker that is asked now; what another one said before is void."""
        self.target, self.turn = target, turn
        self.asked = time.monotonic()

    def falls_back(self, version: Version, response_id: str) -> None:
        """Let another version answer; what workers said under the one before is void."""
        self.wanted = self.wanted or self.version
        self.version, self.id = version, response_id
        self.target = self.turn = self.first_token = self.shadow = None
        self.attempts = Attempts()

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.clock

    def copy_for(self, version: Version) -> Draft:
        """Give a draft of the same request to another version, which has not begun."""
        fresh = Draft(self.call, version, self.id, self.standing, outcome=self.outcome)
        fresh.body = self.body
        return fresh

    def note_first_token(self) -> None:
        """Note when the worker began to answer."""
        if self.first_token is None:
            self.first_token = time.monotonic() - self.clock

    def judged(self, guard: OutputGuard) -> None:
        """Take over what the output guards decided."""
        self.audit += guard.audit
        self.flagged |= guard.flagged
