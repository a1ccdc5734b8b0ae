"""Bad bodies get a clear error that names the field; unknown fields never pass."""

import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.serving.forms.base import Form
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.serving.forms.responses import ResponsesForm
from gateway.settings import Limits

LIMITS = Limits()
CHAT = {"model": "support", "messages": [{"role": "user", "content": "Hi"}]}


def refusal(body: bytes | dict, form: object = None) -> InvalidRequest:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    with pytest.raises(InvalidRequest) as caught:
        (form or ChatForm()).read(data, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"model": "m", "messages": [], "temperature": NaN}',
        b'{"model": "\xc3\x28"}',
        b'{"a":' * 5000,
        b'{"model":"m","tools":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    assert refusal(body).status == 400


def test_an_unknown_field_is_named() -> None:
    error = refusal({**CHAT, "lora_path": "/etc"})
    assert error.code == "unknown_parameter"
    assert error.message == "Unrecognized request argument supplied: lora_path"


def test_an_unknown_field_deep_inside_is_named_with_its_path() -> None:
    error = refusal({**CHAT, "messages": [{"role": "user", "content": "x", "api_base": "y"}]})
    assert error.param == "messages[0].api_base"


def test_a_missing_field_is_named() -> None:
    error = refusal({"model": "support"})
    assert (error.param, error.code) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_values_out_of_bounds_name_their_field(change: dict, param: str) -> None:
    assert refusal({**CHAT, **change}).param == param


def test_images_are_refused() -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}
    assert refusal({**CHAT, "messages": [{"role": "user", "content": [part]}]}).status == 400


def test_what_is_for_the_gateway_only_never_reaches_the_worker() -> None:
    body = {
        **CHAT,
        "user": "u1",
        "safety_identifier": "s1",
        "metadata": {"a": "b"},
        "store": True,
        "temperature": 0,
    }
    read = ChatForm().read(msgspec.json.encode(body), LIMITS)
    sent = msgspec.json.decode(msgspec.json.encode(read.request))
    assert sent == {**CHAT, "temperature": 0, "logprobs": True}
    assert read.identifiers == ("s1", "u1", None)


def test_a_stream_asks_for_usage_in_every_chunk() -> None:
    read = ChatForm().read(msgspec.json.encode({**CHAT, "stream": True}), LIMITS)
    sent = msgspec.json.decode(msgspec.json.encode(read.request))
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert not read.wants_usage


def test_completions_refuse_what_is_not_supported() -> None:
    base = {"model": "m", "prompt": "x"}
    assert refusal({**base, "suffix": "y"}, CompletionForm()).param == "suffix"
    assert refusal({**base, "best_of": 3}, CompletionForm()).param == "best_of"
    assert refusal({**base, "prompt": ""}, CompletionForm()).param == "prompt"
    assert refusal({**base, "prompt": ["x"] * 17}, CompletionForm()).param == "prompt"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ],
)
def test_responses_refuse_by_name_what_needs_a_memory(change: dict, param: str) -> None:
    error = refusal({"model": "m", "input": "x", **change}, ResponsesForm())
    assert error.param == param


def test_a_responses_request_says_the_same_as_a_chat() -> None:
    body = {
        "model": "support",
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
        ],
        "max_output_tokens": 9,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    }
    read = ResponsesForm().read(msgspec.json.encode(body), LIMITS)
    sent = msgspec.json.decode(msgspec.json.encode(read.request))
    assert [message["role"] for message in sent["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert sent["max_completion_tokens"] == 9
    assert sent["response_format"]["json_schema"]["name"] == "n"


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (ChatForm(), CHAT),
        (CompletionForm(), {"model": "support", "prompt": "Hi"}),
        (ResponsesForm(), {"model": "support", "input": "Hi"}),
    ],
)
def test_the_flex_tier_is_read_and_never_sent(form: Form, body: dict[str, object]) -> None:
    for tier, flex in ((None, False), ("auto", False), ("flex", True)):
        read = form.read(msgspec.json.encode({**body, "service_tier": tier}), LIMITS)
        assert read.flex is flex
        assert read.request.service_tier is None


def nested(levels: int) -> dict:
    found: dict = {}
    for _ in range(levels):
        found = {"items": found}
    return found


def function(**parameters: object) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def schema(number: int) -> dict:
    form = {"name": "s", "schema": {"enum": list(range(number))}}
    return {"type": "json_schema", "json_schema": form}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stop": ["a", "x" * 1001]}, "stop"),
        ({"response_format": schema(5000)}, "response_format"),
        ({"tools": [function(), function(enum=["x"] * 5000)]}, "tools[1]"),
        ({"tools": [function(enum=["x"] * 4900)] * 5}, "tools[4]"),
        ({"tools": [{"a": [[[[{}] * 1000] * 5]]}]}, "tools[0]"),
        ({"tools": [nested(100)]}, "tools[0]"),
        ({"tools": [{"a": [[[["x"] * 10] * 10] * 10] * 10}]}, "tools[0]"),
    ],
)
def test_what_would_keep_a_worker_busy_for_all_is_refused(change: dict, param: str) -> None:
    assert refusal({**CHAT, **change}).param == param


def test_what_people_ask_for_is_not() -> None:
    usual = {
        "stop": ["x" * 1000] * 16,
        "response_format": schema(4000),
        "tools": [nested(99), *[function(enum=["x"] * 300)] * 60],
    }
    ChatForm().read(msgspec.json.encode({**CHAT, **usual}), LIMITS)


def test_the_same_holds_on_the_other_routes() -> None:
    text = {"model": "m", "prompt": "x", "stop": ["x"] * 17}
    assert refusal(text, CompletionForm()).param == "stop"
    given = {"model": "m", "input": "x"}
    form = {"type": "json_schema", "name": "s", "schema": {"enum": ["x"] * 5000}}
    assert refusal({**given, "text": {"format": form}}, ResponsesForm()).status == 400
    tool = {"type": "function", "name": "f", "parameters": {"enum": ["x"] * 5000}}
    assert refusal({**given, "tools": [tool]}, ResponsesForm()).param == "tools[0]"
