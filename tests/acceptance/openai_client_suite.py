"""What the official `openai` client must find, whatever worker stands behind the gateway.

Subclassed where a `live` fixture gives a gateway on stub workers (tests/integration) and one on
real vLLM (tests/acceptance).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from .live import Live

ASK = [{"role": "user", "content": "My parcel has not arrived. What can I do?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "team": {"type": "string", "enum": ["shipping", "billing"]},
        "urgent": {"type": "boolean"},
    },
    "required": ["team", "urgent"],
    "additionalProperties": False,
}
# Texts and finish reasons by choice, the usage, and all chunks.
Streamed = tuple[dict[int, str], dict[int, Any], Any, list[Any]]


def extras(value: Any) -> list[str]:
    """Names of fields that OpenAI's own models do not know, anywhere in an answer."""
    if isinstance(value, list):
        return [name for item in value for name in extras(item)]
    if not isinstance(value, BaseModel):
        return []
    found = list(value.model_extra or {})
    for name in type(value).model_fields:
        found += extras(getattr(value, name))
    return found


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with live.client() as client:
        yield client


def stream_chat(client: OpenAI, **body: Any) -> Streamed:
    """Stream a chat to its end."""
    texts: dict[int, str] = {}
    ends: dict[int, Any] = {}
    usage, chunks = None, []
    options = {"stream_options": {"include_usage": True}} | body
    for chunk in client.chat.completions.create(stream=True, **options):
        chunks.append(chunk)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    return texts, ends, usage, chunks


class ChatSuite:
    """`/v1/chat/completions`."""

    def test_answer_is_exactly_openais(self, live: Live, client: OpenAI) -> None:
        raw = client.chat.completions.with_raw_response.create(
            model=live.alias, messages=ASK, max_tokens=8, temperature=0
        )
        answer = raw.parse()
        assert answer.object == "chat.completion"
        assert re.fullmatch(rf"{live.alias}@\d+", answer.model)
        assert answer.model in (answer.system_fingerprint or "")
        assert answer.id.startswith("chatcmpl-")
        [choice] = answer.choices
        assert choice.message.role == "assistant"
        assert choice.message.content
        assert choice.finish_reason in ("stop", "length")
        assert choice.logprobs is None
        usage = answer.usage
        assert usage is not None
        assert usage.prompt_tokens > 0
        assert 0 < usage.completion_tokens <= 8
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert extras(answer) == []
        assert raw.headers["x-request-id"]
        assert raw.headers["x-adapter-version"] == answer.model
        assert "x-confidence" in raw.headers
        assert "x-guardrails" in raw.headers

    def test_stream_equals_unary(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {
            "model": live.alias, "messages": ASK, "max_tokens": 12, "temperature": 0,
        }  # fmt: skip
        unary = client.chat.completions.create(**body)
        texts, ends, usage, chunks = stream_chat(client, **body)
        assert texts == {0: unary.choices[0].message.content}
        assert ends == {0: unary.choices[0].finish_reason}
        assert usage.model_dump() == unary.usage.model_dump()
        assert {chunk.model for chunk in chunks} == {unary.model}
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].id != unary.id
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices == []
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert extras(chunks) == []

    def test_stream_tells_usage_only_where_asked(self, live: Live, client: OpenAI) -> None:
        _, _, usage, chunks = stream_chat(
            client, model=live.alias, messages=ASK, max_tokens=4, stream_options=openai.omit
        )
        assert usage is None
        assert all(chunk.choices for chunk in chunks)

    def test_several_choices(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {
            "model": live.alias, "messages": ASK, "n": 2, "max_tokens": 6, "seed": 7,
        }  # fmt: skip
        unary = client.chat.completions.create(**body)
        assert [choice.index for choice in unary.choices] == [0, 1]
        assert all(choice.message.content for choice in unary.choices)
        texts, ends, usage, _ = stream_chat(client, **body)
        assert set(texts) == set(ends) == {0, 1}
        assert usage.prompt_tokens == unary.usage.prompt_tokens

    def test_stop(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {"model": live.alias, "messages": ASK, "temperature": 0}
        whole = client.chat.completions.create(max_tokens=12, **body).choices[0].message.content
        assert whole
        word = whole[len(whole) // 2 :][:3]
        cut = client.chat.completions.create(max_tokens=12, stop=[word], **body).choices[0]
        assert cut.finish_reason == "stop"
        assert cut.message.content == whole[: whole.index(word)]
        texts, ends, _, _ = stream_chat(client, max_tokens=12, stop=[word], **body)
        assert texts == {0: cut.message.content}
        assert ends == {0: "stop"}

    def test_seed(self, live: Live, client: OpenAI) -> None:
        def ask() -> str | None:
            answer = client.chat.completions.create(
                model=live.alias, messages=ASK, max_tokens=8, temperature=1.0, seed=11
            )
            return answer.choices[0].message.content

        assert ask() == ask()

    def test_logprobs_asked(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {
            "model": live.alias, "messages": ASK, "max_tokens": 6, "temperature": 0,
            "logprobs": True, "top_logprobs": 2,
        }  # fmt: skip
        [choice] = client.chat.completions.create(**body).choices
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert "".join(token.token for token in tokens) == choice.message.content
        assert all(token.logprob <= 0 for token in tokens)
        assert all(len(token.top_logprobs) == 2 for token in tokens)
        _, _, _, chunks = stream_chat(client, **body)
        streamed = [
            token.token
            for chunk in chunks
            for part in chunk.choices
            if part.logprobs
            for token in part.logprobs.content or []
        ]
        assert "".join(streamed) == choice.message.content

    def test_logprobs_not_asked(self, live: Live, client: OpenAI) -> None:
        _, _, _, chunks = stream_chat(client, model=live.alias, messages=ASK, max_tokens=4)
        assert all(part.logprobs is None for chunk in chunks for part in chunk.choices)

    def test_json_schema(self, live: Live, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model=live.alias,
            messages=[{"role": "user", "content": "My parcel is lost. Answer as JSON."}],
            max_tokens=60,
            temperature=0,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA},
            },
        )
        made = json.loads(answer.choices[0].message.content or "")
        assert set(made) == {"team", "urgent"}
        assert made["team"] in ("shipping", "billing")

    def test_content_parts(self, live: Live, client: OpenAI) -> None:
        parts = [{"type": "text", "text": "Where is"}, {"type": "text", "text": " my parcel?"}]
        answer = client.chat.completions.create(
            model=live.alias, messages=[{"role": "user", "content": parts}], max_tokens=4
        )
        assert answer.choices[0].message.content

    def test_pinned_version_and_base(self, live: Live, client: OpenAI) -> None:
        for model in (f"{live.alias}@1", "base"):
            answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=3)
            assert answer.model == ("base@0" if model == "base" else model)

    async def test_async_client(self, live: Live) -> None:
        async with live.async_client() as client:
            body: dict[str, Any] = {
                "model": live.alias, "messages": ASK, "max_tokens": 6, "temperature": 0,
            }  # fmt: skip
            unary = await client.chat.completions.create(**body)
            text = ""
            async for chunk in await client.chat.completions.create(stream=True, **body):
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert text == unary.choices[0].message.content


class CompletionSuite:
    """`/v1/completions`."""

    def test_completion(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {
            "model": live.alias, "prompt": "The parcel", "max_tokens": 8, "temperature": 0,
        }  # fmt: skip
        unary = client.completions.create(**body)
        assert unary.object == "text_completion"
        assert re.fullmatch(rf"{live.alias}@\d+", unary.model)
        assert unary.id.startswith("cmpl-")
        assert extras(unary) == []
        text, usage = "", None
        for chunk in client.completions.create(
            stream=True, stream_options={"include_usage": True}, **body
        ):
            usage = chunk.usage or usage
            text += "".join(choice.text for choice in chunk.choices)
            assert extras(chunk) == []
        assert text == unary.choices[0].text
        assert usage is not None
        assert unary.usage is not None
        assert usage.model_dump() == unary.usage.model_dump()

    def test_logprobs(self, live: Live, client: OpenAI) -> None:
        answer = client.completions.create(
            model=live.alias, prompt="The parcel", max_tokens=5, temperature=0, logprobs=2
        )
        [choice] = answer.choices
        assert choice.logprobs is not None
        tokens = choice.logprobs.tokens or []
        assert "".join(tokens) == choice.text
        assert len(choice.logprobs.token_logprobs or []) == len(tokens)
        assert choice.logprobs.text_offset is not None
        assert choice.logprobs.text_offset[0] == 0

    def test_several_prompts(self, live: Live, client: OpenAI) -> None:
        answer = client.completions.create(
            model=live.alias, prompt=["The parcel", "The invoice"], max_tokens=4
        )
        assert [choice.index for choice in answer.choices] == [0, 1]


class ResponsesSuite:
    """`/v1/responses`."""

    def test_response(self, live: Live, client: OpenAI) -> None:
        answer = client.responses.create(
            model=live.alias, input="Where is my parcel?", max_output_tokens=16, temperature=0
        )
        assert answer.object == "response"
        assert answer.id.startswith("resp_")
        assert answer.status in ("completed", "incomplete")
        assert answer.output_text
        assert re.fullmatch(rf"{live.alias}@\d+", answer.model)
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
        assert extras(answer) in ([], ["store"])

    def test_stream_equals_unary(self, live: Live, client: OpenAI) -> None:
        body: dict[str, Any] = {
            "model": live.alias,
            "instructions": "Be brief.",
            "input": [{"role": "user", "content": "Where is my parcel?"}],
            "max_output_tokens": 16,
            "temperature": 0,
        }
        unary = client.responses.create(**body)
        kinds, text, last = [], "", None
        for event in client.responses.create(stream=True, **body):
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                text += event.delta
            last = event
        assert text == unary.output_text
        assert kinds[0] == "response.created"
        assert kinds[-1] == f"response.{unary.status}"
        assert last is not None
        assert last.response.output_text == text
        assert last.response.usage.model_dump() == unary.usage.model_dump()

    def test_nothing_is_kept_between_calls(self, live: Live, client: OpenAI) -> None:
        answer = client.responses.create(
            model=live.alias, input="Hello", max_output_tokens=16, store=True
        )
        assert answer.to_dict().get("store") is False
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(
                model=live.alias, input="And?", previous_response_id=answer.id, max_output_tokens=16
            )
        assert refused.value.param == "previous_response_id"


class ModelsSuite:
    """`/v1/models` and `/v1/moderations`."""

    def test_models(self, live: Live, client: OpenAI) -> None:
        names = {model.id for model in client.models.list()}
        assert {*live.aliases, "base"} <= names
        for name in (live.alias, f"{live.alias}@1", "base"):
            model = client.models.retrieve(name)
            assert (model.id, model.object) == (name, "model")
            assert model.created > 0

    def test_unknown_model(self, live: Live, client: OpenAI) -> None:
        for name in ("nobody", f"{live.alias}@999", f"{live.alias}@x", "../etc/passwd"):
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(name)

    def test_moderations(self, client: OpenAI) -> None:
        answer = client.moderations.create(
            input=["The train leaves at noon.", "I will kill you, you worthless piece of shit."]
        )
        fine, foul = answer.results
        assert answer.id.startswith("modr-")
        assert not fine.flagged
        assert foul.flagged
        scores = foul.category_scores.model_dump()
        assert all(0 <= score <= 1 for score in scores.values() if score is not None)


class OpenAIClientSuite(ChatSuite, CompletionSuite, ResponsesSuite, ModelsSuite):
    """All of it."""
