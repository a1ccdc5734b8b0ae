"""What an alias brings along, in calls of every route and in what is recorded of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from feedback.conversation import conversation_of
from feedback.data.material import question_of
from gateway.registry.snapshot import NO_OPTIONS, AliasOptions, Key
from gateway.serving.call import Call
from gateway.serving.forms.base import Form
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.serving.forms.responses import ResponsesForm
from gateway.serving.options import apply, ask_for_logprobs
from gateway.serving.prompts import slots_of
from gateway.serving.requests import ChatRequest
from gateway.settings import Limits

KEY = Key(1, "acme", "acme", "app", None, None)
PROMPT = "You answer for Acme."
QUESTION = [{"role": "user", "content": "When?"}]
ASKED: list[tuple[Form, dict[str, Any]]] = [
    (ChatForm(), {"messages": QUESTION}),
    (ResponsesForm(), {"input": "When?"}),
    (ResponsesForm(), {"input": QUESTION}),
]


def call(form: Form, options: AliasOptions, **body: Any) -> Call:
    asked = msgspec.json.encode({"model": "support", **body})
    read = form.read(asked, Limits())
    made = Call(form.route, form.id_prefix, KEY, "support", read.request, asked, "req_1")
    apply(options, made)
    return made


@pytest.mark.parametrize(("form", "body"), ASKED)
def test_the_prompt_goes_first_and_is_what_will_be_trained_on(
    form: Form, body: dict[str, Any]
) -> None:
    made = call(form, AliasOptions(system_prompt=PROMPT), **body)
    assert isinstance(made.request, ChatRequest)
    assert [(m.role, m.content) for m in made.request.messages] == [
        ("system", PROMPT),
        ("user", "When?"),
    ]
    messages, parameters = conversation_of(msgspec.json.decode(made.asked))
    assert question_of(messages) == (PROMPT, "When?")
    assert parameters == {}
    # The owner's own words are not what the input guards judge.
    assert [slot.text for slot in slots_of(made.request)] == ["When?"]


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (ChatForm(), {"messages": [{"role": "system", "content": "Mine."}, *QUESTION]}),
        (ChatForm(), {"messages": [*QUESTION, {"role": "developer", "content": "Mine."}]}),
        (ResponsesForm(), {"input": "When?", "instructions": "Mine."}),
        (ResponsesForm(), {"input": [{"role": "developer", "content": "Mine."}, *QUESTION]}),
    ],
)
def test_a_prompt_of_the_clients_own_stays(form: Form, body: dict[str, Any]) -> None:
    made = call(form, AliasOptions(system_prompt=PROMPT), **body)
    assert PROMPT.encode() not in made.asked
    assert PROMPT not in str(made.request)
    assert "Mine." in str(made.request)


def test_completions_have_no_prompt_and_get_the_defaults() -> None:
    made = call(CompletionForm(), AliasOptions(system_prompt=PROMPT, top_k=5), prompt="Once")
    assert made.request.top_k == 5
    assert PROMPT not in str(made.request)
    messages, parameters = conversation_of(msgspec.json.decode(made.asked))
    assert messages == [{"role": "user", "content": "Once"}]
    assert parameters == {"top_k": 5}


def test_what_the_client_sends_wins() -> None:
    options = AliasOptions(temperature=0.2, top_p=0.5, stop=("END",), min_tokens=100)
    made = call(ChatForm(), options, messages=QUESTION, temperature=0, top_p=None)
    request = made.request
    assert (request.temperature, request.top_p, request.stop) == (0, 0.5, ["END"])
    assert request.min_tokens == 100
    asked = msgspec.json.decode(made.asked)
    assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0, 0.5, ["END"])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_length_of_the_clients_own_wins_by_either_name(name: str) -> None:
    options = AliasOptions(max_tokens=500, min_tokens=100)
    request = call(ChatForm(), options, messages=QUESTION, **{name: 8}).request
    assert isinstance(request, ChatRequest)
    lengths = {"max_tokens": request.max_tokens, "max_completion_tokens": None}
    lengths["max_completion_tokens"] = request.max_completion_tokens
    assert lengths == {"max_tokens": None, "max_completion_tokens": None, name: 8}
    assert request.min_tokens is None
    both = call(ChatForm(), options, messages=QUESTION).request
    assert (both.max_tokens, both.min_tokens) == (500, 100)


def test_without_options_the_body_is_recorded_as_it_came() -> None:
    made = call(ChatForm(), NO_OPTIONS, messages=QUESTION)
    assert made.asked == msgspec.json.encode({"model": "support", "messages": QUESTION})


WANTS: list[tuple[Form, dict[str, Any], dict[str, Any]]] = [
    (ChatForm(), {"messages": QUESTION}, {"logprobs": True}),
    (CompletionForm(), {"prompt": "When?"}, {"logprobs": 0}),
    (ResponsesForm(), {"input": "When?"}, {"include": ["message.output_text.logprobs"]}),
]


def asks(form: Form, body: dict[str, Any], share: float, purpose: str = "serve") -> bool:
    """Whether the worker is asked for logprobs where this share of the calls is scored."""
    read = form.read(msgspec.json.encode({"model": "support", **body}), Limits())
    key = Key(1, "acme", "acme", "app", None, None, purpose)
    made = Call(form.route, form.id_prefix, key, "support", read.request, b"{}", "req_1")
    made.wants_tokens = read.wants_tokens
    ask_for_logprobs(AliasOptions(logprobs=share), 1 - share, made)
    sent = msgspec.to_builtins(made.request)
    assert "logprobs" in sent or "top_logprobs" not in sent
    return "logprobs" in sent


@pytest.mark.parametrize(("form", "body", "wish"), WANTS)
def test_logprobs_are_asked_for_a_share_of_the_calls(
    form: Form, body: dict[str, Any], wish: dict[str, Any]
) -> None:
    assert all(asks(form, body, 1) for _ in range(50))
    assert not any(asks(form, body, 0) for _ in range(50))
    assert 700 < sum(asks(form, body, 0.8) for _ in range(1000)) < 900
    # Who wants them gets them; an evaluation calibrates what a confidence means.
    assert asks(form, body | wish, 0)
    assert asks(form, body, 0, purpose="evaluation")


def test_alternatives_are_not_asked_for_without_logprobs() -> None:
    assert not asks(ResponsesForm(), {"input": "When?", "top_logprobs": 3}, 0)
