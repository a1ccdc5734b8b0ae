"""What clients may send on the serving routes: an allow-list, field by field.

An unknown field is refused as OpenAI does. A struct is also what goes to the worker, so nothing
that is not named here can reach it. Fields under "the gateway's own" are read here and never sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from gateway.errors import InvalidRequest

T = TypeVar("T")

_Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class RequestStruct(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Refuses unknown fields, and leaves out what was not given."""


class TextPart(RequestStruct, tag_field="type", tag="text"):
    """A text part of a message's content."""

    text: str


class RefusalPart(RequestStruct, tag_field="type", tag="refusal"):
    """An earlier refusal of the assistant."""

    refusal: str


class FunctionCall(RequestStruct):
    """A function call of the assistant: `arguments` is JSON as text."""

    name: str
    arguments: str


class ToolCall(RequestStruct):
    """An earlier tool call in the conversation."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a tool call needs an id")


class Message(RequestStruct):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(RequestStruct):
    """OpenAI's stream options; `continuous_usage_stats` is vLLM's."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(RequestStruct):
    """A named JSON schema for the answer."""

    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(RequestStruct):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Sampling(RequestStruct, kw_only=True):
    """What chat and text completions share."""

    model: str
    n: _Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Positive | None = None
    temperature: _Temperature | None = None
    top_p: _Probability | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    # reviewed extras of vLLM
    top_k: int | None = None
    min_p: _Probability | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: Literal[False] | None = None
    # the gateway's own
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None


class ChatRequest(_Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: _Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None


class CompletionRequest(_Sampling, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: _Positive | None = None


_GATEWAY_OWN = (
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "store",
    "service_tier",
    "return_token_ids",
)


def strip_own(request: _Sampling) -> None:
    """Take out what is for the gateway only, so that it never reaches a worker."""
    for name in _GATEWAY_OWN:
        setattr(request, name, None)


_UNKNOWN = "Object contains unknown field `"


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Read a request body, or raise `InvalidRequest` with a message that names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None


def _explain(text: str) -> InvalidRequest:
    """Turn msgspec's message into OpenAI's words, with the path as `param`."""
    detail, _, where = text.partition(" - at `$")
    param = where.rstrip("`").lstrip(".") or None
    if detail.startswith(_UNKNOWN):
        field = detail[len(_UNKNOWN) :].rstrip("`")
        path = f"{param}.{field}" if param else field
        return InvalidRequest(
            f"Unrecognized request argument supplied: {path}", param=path, code="unknown_parameter"
        )
    if detail.startswith("Object missing required field `"):
        field = detail.split("`")[1]
        path = f"{param}.{field}" if param else field
        return InvalidRequest(
            f"Missing required parameter: '{path}'.",
            param=path,
            code="missing_required_parameter",
        )
    if param is None:
        return InvalidRequest(f"The body must be a JSON object: {detail}.")
    return InvalidRequest(f"Invalid value for '{param}': {detail}.", param=param)
