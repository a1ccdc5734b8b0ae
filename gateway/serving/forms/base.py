"""What every route's form has in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import msgspec

from gateway.errors import GatewayError, InvalidRequest
from gateway.serving.call import Draft
from gateway.serving.events import Event
from gateway.serving.requests import ChatRequest, CompletionRequest, StreamOptions, strip_own
from gateway.settings import Limits

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
_MAX_STOPS = 16
_MAX_STOP_LENGTH = 1000
_MAX_VALUES = 5000
_MAX_VALUES_TOGETHER = 20_000
_MAX_DEPTH = 100


class Writer(Protocol):
    """Writes one answer; it is made for each call and may keep state."""

    def unary(self, events: Iterable[Event]) -> bytes:
        """Give the whole body."""
        ...

    def opening(self) -> bytes:
        """Give what a stream begins with; may be empty."""
        ...

    def event(self, event: Event) -> bytes:
        """Give the server-sent events for one event; may be empty."""
        ...

    def closing(self) -> bytes:
        """Give what a stream ends with."""
        ...

    def failure(self, error: GatewayError) -> bytes:
        """Give the event for an error in the middle of a stream."""
        ...


class Form(Protocol):
    """Reads requests of one route and makes writers for its answers."""

    route: ClassVar[str]
    id_prefix: ClassVar[str]

    def read(self, body: bytes, limits: Limits) -> ReadRequest:
        """Read a body. Raises `InvalidRequest` with the field at fault."""
        ...

    def writer(self, draft: Draft) -> Writer:
        """Make the writer of one answer."""
        ...


class ReadRequest(msgspec.Struct):
    """A body that was read: what goes to the worker, and what stays here.

    `flex` calls (OpenAI's service tier) let others go first while all workers are full.
    """

    model: str
    request: ChatRequest | CompletionRequest
    identifiers: tuple[str | None, ...]
    stream: bool
    wants_tokens: bool
    wants_usage: bool
    expected_choices: int
    flex: bool = False
    extra: Any = None


def sse(payload: Any) -> bytes:
    """Write one server-sent event."""
    return b"data: " + encode(payload) + b"\n\n"


def failure(error: GatewayError) -> bytes:
    """Write an error inside a stream as OpenAI does."""
    return sse(error.body)


def check_limits(request: ChatRequest | CompletionRequest, limits: Limits) -> None:
    """Refuse what goes over the configured bounds."""
    if request.n is not None and request.n > limits.max_n:
        raise InvalidRequest(f"'n' may be at most {limits.max_n} here.", param="n")
    asked = request.max_tokens
    name = "max_tokens"
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        asked, name = request.max_completion_tokens, "max_completion_tokens"
    if asked is not None and asked > limits.max_tokens:
        raise InvalidRequest(f"'{name}' may be at most {limits.max_tokens} here.", param=name)
    if request.min_tokens is not None and request.min_tokens > limits.max_tokens:
        raise InvalidRequest(
            f"'min_tokens' may be at most {limits.max_tokens} here.", param="min_tokens"
        )
    _check_costs(request)


def _check_costs(request: ChatRequest | CompletionRequest) -> None:
    """Refuse what would keep a worker busy for all others.

    It looks for each stop text at every token. It makes a grammar of a schema, in a time that grows
    much faster than the schema and its depth.
    """
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > _MAX_STOPS or any(len(stop) > _MAX_STOP_LENGTH for stop in stops):
        raise InvalidRequest(
            f"'stop' may hold at most {_MAX_STOPS} texts of {_MAX_STOP_LENGTH} characters here.",
            param="stop",
        )
    if not isinstance(request, ChatRequest):
        return
    form = request.response_format.json_schema if request.response_format else None
    if form is not None:
        _values_in(form.schema, _MAX_VALUES, "response_format")
    left = _MAX_VALUES_TOGETHER
    for index, tool in enumerate(request.tools or ()):
        left -= _values_in(tool, min(left, _MAX_VALUES), f"tools[{index}]")


def _values_in(value: Any, most: int, param: str) -> int:
    """Count the values in JSON: objects, lists and what they hold. Raises `InvalidRequest`."""
    number, level = 0, [value]
    for _ in range(_MAX_DEPTH):
        number += len(level)
        if number > most:
            raise InvalidRequest(
                f"'{param}' goes past {most} values, the most that it may have here.", param=param
            )
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return number
    raise InvalidRequest(
        f"'{param}' is nested more than {_MAX_DEPTH} levels deep, the most here.", param=param
    )


def ready_for_worker(request: ChatRequest | CompletionRequest) -> bool:
    """Set what the gateway needs of the worker; tells whether the client asked for usage."""
    stream = bool(request.stream)
    options = request.stream_options
    if options is not None and not stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
        )
    wants_usage = bool(options and options.include_usage)
    # Usage in every chunk bills a stream right that is broken off.
    request.stream_options = (
        StreamOptions(include_usage=True, continuous_usage_stats=True) if stream else None
    )
    strip_own(request)
    return wants_usage


def identifiers(request: ChatRequest | CompletionRequest) -> tuple[str | None, ...]:
    """Give what may identify the session, the strongest first."""
    return (request.safety_identifier, request.user, request.prompt_cache_key)


def session_of(read: ReadRequest, header: str | None) -> str | None:
    """Give what a rollout sticks to, or None."""
    return next((value for value in (*read.identifiers, header) if value), None)
