"""Serving routes on the wire: bodies to send, and what came back put together again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ROUTES = (CHAT, TEXT, RESPONSES)


def body_for(route: str, model: str, words: str, **more: Any) -> dict[str, Any]:
    """A call to a route with `words` as the user's text."""
    match route:
        case "/v1/chat/completions":
            body = {"model": model, "messages": [{"role": "user", "content": words}]}
        case "/v1/completions":
            body = {"model": model, "prompt": words}
        case _:
            body = {"model": model, "input": words}
    return body | more


def leaves_after(seconds: float) -> httpx.Timeout:
    """How long a client waits that connects and asks, and then leaves without an answer."""
    return httpx.Timeout(60, read=seconds)


@dataclass
class Got:
    """An answer put together: texts and ends by choice, and every byte of it."""

    texts: dict[int, str] = field(default_factory=dict)
    ends: dict[int, str | None] = field(default_factory=dict)
    tokens: dict[int, str] = field(default_factory=dict)
    model: str = ""
    error: dict[str, Any] | None = None
    done: bool = False
    raw: str = ""

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def end(self) -> str | None:
        return self.ends.get(0)


def events_of(raw: str) -> Iterable[Any]:
    """The data of each server-sent event; `[DONE]` as it is."""
    for line in raw.split("\n"):
        if line.startswith("data: "):
            data = line[6:].rstrip("\r")
            yield data if data == "[DONE]" else json.loads(data)


def read(route: str, raw: str, *, stream: bool) -> Got:
    """Put an answer of any route together."""
    got = Got(raw=raw)
    if not stream:
        _whole(route, json.loads(raw), got)
        return got
    for event in events_of(raw):
        if event == "[DONE]":
            got.done = True
        elif isinstance(event, dict) and "error" in event and event.get("type") in (None, "error"):
            got.error = event["error"]
        elif route == RESPONSES:
            _response_event(event, got)
        else:
            got.model = event["model"]
            for choice in event["choices"]:
                _choice(choice, choice.get("delta") or {}, got)
    return got


def _whole(route: str, answer: dict[str, Any], got: Got) -> None:
    got.model = answer["model"]
    if route == RESPONSES:
        _response_end(answer, got)
        got.texts[0] = "".join(
            part.get("text", "") for item in answer["output"] for part in item.get("content", ())
        )
        return
    for choice in answer["choices"]:
        _choice(choice, choice.get("message") or {}, got)


def _choice(choice: dict[str, Any], holder: dict[str, Any], got: Got) -> None:
    at = choice["index"]
    text = choice.get("text") or holder.get("content") or ""
    got.texts[at] = got.texts.get(at, "") + text
    if choice.get("finish_reason"):
        got.ends[at] = choice["finish_reason"]
    logprobs = choice.get("logprobs") or {}
    names = logprobs.get("tokens") or [one["token"] for one in logprobs.get("content") or ()]
    got.tokens[at] = got.tokens.get(at, "") + "".join(names)


def _response_event(event: dict[str, Any], got: Got) -> None:
    match event["type"]:
        case "response.output_text.delta":
            got.texts[0] = got.texts.get(0, "") + event["delta"]
        case "response.completed" | "response.incomplete" | "response.failed":
            got.done = True
            got.model = event["response"]["model"]
            _response_end(event["response"], got)


def _response_end(answer: dict[str, Any], got: Got) -> None:
    details = answer.get("incomplete_details") or {}
    reasons = {"max_output_tokens": "length"}
    got.ends[0] = reasons.get(details.get("reason"), details.get("reason"))
    if answer["status"] == "completed":
        got.ends[0] = "stop"
    got.error = answer.get("error")
