"""Requests of the Responses API, and how one becomes a chat for the worker.

The worker is asked on its chat route: a worker's own memory of responses would break under
routing, and every kind of worker has a chat route.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import InvalidRequest
from gateway.serving.requests import (
    ChatRequest,
    FunctionCall,
    JsonSchema,
    Message,
    RequestStruct,
    ResponseFormat,
    ToolCall,
)


class InputText(RequestStruct, tag_field="type", tag="input_text"):
    """A text part from the user."""

    text: str


class OutputText(RequestStruct, tag_field="type", tag="output_text"):
    """A text part of an earlier answer."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalText(RequestStruct, tag_field="type", tag="refusal"):
    """A refusal in an earlier answer."""

    refusal: str


class MessageItem(RequestStruct):
    """A message; its type may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText | RefusalText]
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(RequestStruct):
    """An earlier function call of the assistant."""

    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"] = "function_call"
    id: str | None = None
    status: str | None = None


class FunctionOutputItem(RequestStruct):
    """What a function gave back."""

    call_id: str
    output: str
    type: Literal["function_call_output"] = "function_call_output"
    id: str | None = None
    status: str | None = None


class TextFormat(RequestStruct):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(RequestStruct):
    """`text` of a request."""

    format: TextFormat | None = None
    verbosity: str | None = None


class FunctionTool(RequestStruct):
    """A function that the model may call."""

    name: str
    type: Literal["function"] = "function"
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Reasoning(RequestStruct):
    """`reasoning` of a request."""

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(RequestStruct):
    """`POST /v1/responses`."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None


LOGPROBS = "message.output_text.logprobs"


def refuse_unsupported(request: ResponsesRequest) -> None:
    """Refuse by name what would need a memory that the gateway does not keep."""
    if request.previous_response_id is not None:
        raise InvalidRequest(
            "'previous_response_id' is not supported: send the whole conversation in 'input'.",
            param="previous_response_id",
            code="unsupported_parameter",
        )
    if request.conversation is not None:
        raise InvalidRequest(
            "'conversation' is not supported: send the whole conversation in 'input'.",
            param="conversation",
            code="unsupported_parameter",
        )
    if request.background:
        raise InvalidRequest(
            "'background' is not supported: leave it out.",
            param="background",
            code="unsupported_parameter",
        )
    unknown = [name for name in request.include or () if name != LOGPROBS]
    if unknown:
        raise InvalidRequest(
            f"'include' does not know {unknown[0]!r}; it may hold {LOGPROBS!r}.",
            param="include",
            code="unsupported_parameter",
        )


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """Say the same as a chat request."""
    messages = []
    if request.instructions is not None:
        messages.append(Message(role="system", content=request.instructions))
    if isinstance(request.input, str):
        messages.append(Message(role="user", content=request.input))
    else:
        for index, item in enumerate(request.input):
            _append(messages, _item(item, index))
    return ChatRequest(
        model=request.model,
        messages=messages,
        stream=request.stream,
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_logprobs=request.top_logprobs,
        response_format=_format(request.text),
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        user=request.user,
        safety_identifier=request.safety_identifier,
        prompt_cache_key=request.prompt_cache_key,
        service_tier=request.service_tier,
    )


_KINDS: dict[str, Any] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
}


def _item(raw: dict[str, Any], index: int) -> MessageItem | FunctionCallItem | FunctionOutputItem:
    kind = _KINDS.get(str(raw.get("type", "message")))
    if kind is None:
        raise InvalidRequest(
            f"Input items of type {raw.get('type')!r} are not supported.", param=f"input[{index}]"
        )
    try:
        item: MessageItem | FunctionCallItem | FunctionOutputItem = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"Invalid value for 'input[{index}]': {error}.", param=f"input[{index}]"
        ) from None
    return item


def _append(
    messages: list[Message], item: MessageItem | FunctionCallItem | FunctionOutputItem
) -> None:
    if isinstance(item, MessageItem):
        messages.append(Message(role=item.role, content=_text(item)))
    elif isinstance(item, FunctionOutputItem):
        messages.append(Message(role="tool", content=item.output, tool_call_id=item.call_id))
    else:
        call = ToolCall(
            id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments)
        )
        last = messages[-1] if messages else None
        if last is not None and last.role == "assistant" and last.tool_calls:
            last.tool_calls.append(call)
        else:
            messages.append(Message(role="assistant", tool_calls=[call]))


def _text(item: MessageItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(
        part.refusal if isinstance(part, RefusalText) else part.text for part in item.content
    )


def _format(text: TextOptions | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    form = text.format
    if form.type != "json_schema":
        return ResponseFormat(type=form.type)
    if form.name is None or form.schema is None:
        raise InvalidRequest(
            "A 'json_schema' format needs 'name' and 'schema'.", param="text.format"
        )
    schema = JsonSchema(
        name=form.name, schema=form.schema, strict=form.strict, description=form.description
    )
    return ResponseFormat(type="json_schema", json_schema=schema)


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {
        "type": "function",
        "function": {name: value for name, value in function.items() if value is not None},
    }


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict):
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
