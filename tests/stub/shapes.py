"""Answers in vLLM's shapes: chat and text completions, unary and as stream chunks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from .script import EOS, Asked, Script, Token, count_tokens

_ids = itertools.count(1)
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice, sampled to its end."""

    index: int
    tokens: tuple[Token, ...]
    finish: str
    stop_reason: str | None
    echo: str = ""

    @property
    def text(self) -> str:
        """The whole text of the choice."""
        return self.echo + "".join(token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices of a call, and what it costs."""

    id: str
    asked: Asked
    chat: bool
    choices: tuple[Choice, ...]
    reasoning: str
    tool_calls: tuple[tuple[str, str], ...]
    prompt_tokens: int
    chat_logprobs: bool = False  # of text completions too, as llama.cpp does

    @property
    def usage(self) -> dict[str, Any]:
        """vLLM's usage object."""
        spent = sum(len(choice.tokens) for choice in self.choices) + count_tokens(self.reasoning)
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + spent,
            "completion_tokens": spent,
            "prompt_tokens_details": None,
        }


def prompts_of(body: dict[str, Any]) -> list[str | list[int]]:
    """The prompts of a text completion: strings or lists of token ids."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt)


def count_prompt(asked: Asked, chat: bool) -> int:
    """How many tokens the prompts of a call have."""
    if not chat:
        return sum(
            count_tokens(prompt) if isinstance(prompt, str) else len(prompt)
            for prompt in prompts_of(asked.body)
        )
    total = 3
    for message in asked.body.get("messages", ()):
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        total += 4 + count_tokens(content)
    return total


def sample(asked: Asked, script: Script, *, chat: bool) -> Answer:
    """Run the script for every choice of a call."""
    body = asked.body
    copies = body.get("n") or 1
    prompts: list[str | list[int]] = [""] if chat else prompts_of(body)
    choices = [
        _choice(asked, script, at * copies + copy, prompt)
        for at, prompt in enumerate(prompts)
        for copy in range(copies)
    ]
    return Answer(
        id=f"{'chatcmpl' if chat else 'cmpl'}-stub{next(_ids)}",
        asked=asked,
        chat=chat,
        choices=tuple(choices),
        reasoning=script.reasoning if chat else "",
        tool_calls=tuple(script.tool_calls) if chat else (),
        prompt_tokens=count_prompt(asked, chat),
    )


def _choice(asked: Asked, script: Script, index: int, prompt: str | list[int]) -> Choice:
    body = asked.body
    text = script.answer(asked, index)
    tokens = script.tokens(text)
    finish, stop_reason = "stop", None
    stops = body.get("stop") or []
    hits = [(at, s) for s in ([stops] if isinstance(stops, str) else stops)
            if s and (at := text.find(s)) >= 0]  # fmt: skip
    if hits:
        at, stop_reason = min(hits)
        tokens = _until(tokens, at, at + len(stop_reason))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and len(tokens) > limit:
        tokens, finish, stop_reason = tokens[:limit], "length", None
    elif not hits and script.eos:
        tokens.append(Token("", EOS, -0.01))
        if limit is not None and len(tokens) > limit:
            tokens, finish = tokens[:limit], "length"
    echo = prompt if body.get("echo") and isinstance(prompt, str) else ""
    return Choice(index, tuple(tokens), finish, stop_reason, echo)


def _until(tokens: list[Token], at: int, end: int) -> list[Token]:
    """Tokens up to the end of a stop string; its text is left out, its tokens are not."""
    kept, position = [], 0
    for token in tokens:
        if position >= end:
            break
        kept.append(Token(token.text[: max(0, at - position)], token.name, token.logprob))
        position += len(token.name)
    return kept


def _chat_logprobs(tokens: tuple[Token, ...], top: int) -> dict[str, Any]:
    return {"content": [_chat_logprob(token, top) for token in tokens]}


def _chat_logprob(token: Token, top: int) -> dict[str, Any]:
    entry = {
        "token": token.name,
        "logprob": token.logprob,
        "bytes": list(token.name.encode()),
    }
    others = [
        {"token": f" alt{k}", "logprob": token.logprob - k, "bytes": list(f" alt{k}".encode())}
        for k in range(1, top)
    ]
    return {**entry, "top_logprobs": [entry, *others] if top else []}


def _text_logprobs(tokens: tuple[Token, ...], top: int, offset: int = 0) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.name)
    return {
        "text_offset": offsets,
        "token_logprobs": [token.logprob for token in tokens],
        "tokens": [token.name for token in tokens],
        "top_logprobs": [
            {token.name: token.logprob, **{f" alt{k}": token.logprob - k for k in range(1, top)}}
            for token in tokens
        ],
    }


def _logprobs(answer: Answer, tokens: tuple[Token, ...], offset: int = 0) -> Any:
    body = answer.asked.body
    if answer.chat:
        if not body.get("logprobs"):
            return None
        return _chat_logprobs(tokens, body.get("top_logprobs") or 0)
    if body.get("logprobs") is None:
        return None
    if answer.chat_logprobs:
        return _chat_logprobs(tokens, body["logprobs"]) if body["logprobs"] else None
    return _text_logprobs(tokens, body["logprobs"], offset)


def unary(answer: Answer, script: Script, extra: list[dict[str, Any]]) -> bytes:
    """The whole answer as one object; `extra` goes into the choices, in order."""
    choices = []
    for choice in answer.choices:
        made: dict[str, Any] = {
            "index": choice.index,
            "logprobs": _logprobs(answer, choice.tokens, len(choice.echo)),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop_reason,
            "token_ids": None,
            **script.extra_choice_fields,
        }
        if answer.chat:
            made["message"] = _message(answer, choice)
            if answer.tool_calls:
                made["finish_reason"] = "tool_calls"
        else:
            made |= {"text": choice.text, "prompt_logprobs": None, "prompt_token_ids": None}
        choices.append(made)
    for choice, more in zip(choices, extra, strict=False):
        choice |= more
    return encode(
        {
            "id": answer.id,
            "object": "chat.completion" if answer.chat else "text_completion",
            "created": int(time.time()),
            "model": answer.asked.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": "vllm-stub",
            "usage": answer.usage,
            "kv_transfer_params": None,
            **({"prompt_logprobs": None} if answer.chat else {}),
            **script.extra_fields,
        }
    )


def _message(answer: Answer, choice: Choice) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [
            {"id": f"call_{at}", "type": "function",
             "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(answer.tool_calls)
        ],
        "reasoning": answer.reasoning or None,
    }  # fmt: skip


class Chunks:
    """Builds the stream chunks of an answer, one token each, choices taking turns."""

    def __init__(self, answer: Answer, script: Script) -> None:
        self._answer = answer
        self._script = script
        options = answer.asked.body.get("stream_options") or {}
        self._usage = bool(options.get("include_usage"))
        self._continuous = bool(options.get("continuous_usage_stats")) and self._usage
        self._sent = [0] * len(answer.choices)
        self._head = {
            "id": answer.id,
            "object": "chat.completion.chunk" if answer.chat else "text_completion",
            "created": int(time.time()),
            "model": answer.asked.model,
        }

    def opening(self) -> Iterator[bytes]:
        """What comes before the first token: roles, and an echo where one was asked."""
        for choice in self._answer.choices:
            if self._answer.chat:
                yield self._delta(choice.index, {"role": "assistant", "content": ""})
            elif choice.echo:
                yield self._event([{"index": choice.index, "text": choice.echo, "logprobs": None,
                                    "finish_reason": None, "stop_reason": None}])  # fmt: skip

    def tokens(self) -> Iterator[bytes]:
        """A chunk for each token of reasoning, content and tool calls."""
        for choice in self._answer.choices:
            for piece in self._script.tokens(self._answer.reasoning):
                yield self._delta(choice.index, {"reasoning": piece.text}, tokens=(piece,))
        offsets = [len(choice.echo) for choice in self._answer.choices]
        for row in itertools.zip_longest(*(choice.tokens for choice in self._answer.choices)):
            for at, (choice, token) in enumerate(zip(self._answer.choices, row, strict=True)):
                if token is not None:
                    last = token is choice.tokens[-1]
                    yield self._token(choice, token, last=last, offset=offsets[at])
                    offsets[at] += len(token.name)
        for choice in self._answer.choices:
            if not choice.tokens:
                yield self._finish(choice)

    def closing(self) -> Iterator[bytes]:
        """The usage chunk where it was asked."""
        if self._usage:
            yield self._event([], usage=self._answer.usage)

    def _token(self, choice: Choice, token: Token, *, last: bool, offset: int) -> bytes:
        self._sent[choice.index] += 1
        finish = choice.finish if last else None
        reason = choice.stop_reason if last else None
        if not self._answer.chat:
            return self._event([{
                "index": choice.index, "text": token.text,
                "logprobs": _logprobs(self._answer, (token,), offset),
                "finish_reason": finish, "stop_reason": reason,
            }])  # fmt: skip
        if last and self._answer.tool_calls:
            return b"".join([
                self._delta(choice.index, {"content": token.text}, tokens=(token,)),
                *self._tool_chunks(choice.index),
                self._delta(choice.index, {"content": ""}, finish="tool_calls"),
            ])  # fmt: skip
        return self._delta(
            choice.index, {"content": token.text}, tokens=(token,), finish=finish, reason=reason
        )

    def _finish(self, choice: Choice) -> bytes:
        if self._answer.chat:
            return self._delta(choice.index, {"content": ""}, finish=choice.finish)
        return self._event([{"index": choice.index, "text": "", "logprobs": None,
                             "finish_reason": choice.finish, "stop_reason": None}])  # fmt: skip

    def _tool_chunks(self, index: int) -> Iterator[bytes]:
        for at, (name, arguments) in enumerate(self._answer.tool_calls):
            head = {"index": at, "id": f"call_{at}", "type": "function",
                    "function": {"name": name, "arguments": ""}}  # fmt: skip
            yield self._delta(index, {"tool_calls": [head]})
            for piece in self._script.tokens(arguments):
                part = {"index": at, "function": {"arguments": piece.text}}
                yield self._delta(index, {"tool_calls": [part]})

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: tuple[Token, ...] = (),
        finish: str | None = None,
        reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(self._answer, tokens) if tokens else None,
            "finish_reason": finish,
            **self._script.extra_choice_fields,
        }
        if finish is not None:
            choice["stop_reason"] = reason
        return self._event([choice])

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._head, "choices": choices, **self._script.extra_fields}
        if usage is not None:
            chunk["usage"] = usage
        elif self._continuous:
            # As vLLM does: what the choice of this chunk has cost so far, not the whole answer.
            sent = self._sent[choices[0]["index"]]
            chunk["usage"] = {
                "prompt_tokens": self._answer.prompt_tokens,
                "total_tokens": self._answer.prompt_tokens + sent,
                "completion_tokens": sent,
            }
        return b"data: " + encode(chunk) + b"\n\n"


def strange_chunk(answer: Answer, text: str, *, known_object: bool) -> bytes:
    """A chunk that no reader of vLLM's protocol knows, with `text` in it."""
    if known_object:
        chunk = {"id": answer.id, "object": "chat.completion.chunk", "created": 1,
                 "model": answer.asked.model,
                 "choices": [{"index": 0, "delta": {"thoughts": text}}]}  # fmt: skip
    else:
        chunk = {"id": answer.id, "object": "chat.completion.patch", "patch": {"content": text}}
    return b"data: " + encode(chunk) + b"\n\n"
