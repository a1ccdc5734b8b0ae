"""vLLM's routes that make no text: embeddings, scores, and the text of tokens.

A worker that runs a model for generation has `/detokenize` only, as vLLM does; `pooling` gives it
the others.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from .http import Cut, Exchange
from .script import Script, count_tokens
from .shapes import encode

decode = msgspec.json.Decoder().decode
DIMENSIONS = 4


class Host(Protocol):
    """What of the worker these routes need."""

    base: str
    pooling: bool
    script: Script
    adapters: dict[str, Any]
    through: list[tuple[str, dict[str, Any]]]


async def answer(host: Host, exchange: Exchange, path: str) -> None:
    """Answer one call, with the script's faults."""
    body = decode(exchange.body)
    host.through.append((path, body))
    if path != "/detokenize" and not host.pooling:
        return await exchange.reply(404, b'{"detail":"Not Found"}')
    model = body.get("model") or host.base
    if model != host.base and model not in host.adapters:
        text = f"The model `{model}` does not exist."
        return await exchange.fail(404, text, "NotFoundError", param="model")
    match host.script.fault:
        case "error":
            return await exchange.fail(500, "EngineCore encountered an issue.", "InternalError")
        case "full":
            return await exchange.fail(429, "Rate limit exceeded.", "RateLimitError")
        case "reset":
            return await exchange.hang_up()
        case "hang":
            await exchange.gone()
            raise Cut
        case "bad_json":
            return await exchange.reply(200, b'{"object": "list", "data": [{"emb')
    return await exchange.reply(200, encode(_made(path, body)))


def _made(path: str, body: dict[str, Any]) -> dict[str, Any]:
    match path:
        case "/detokenize":
            return {"prompt": " ".join(str(token) for token in body["tokens"])}
        case "/v1/embeddings":
            return _embeddings(body)
        case "/v1/score":
            first = body.get("queries") or body.get("text_1")
            second = body.get("documents") or body.get("text_2")
            texts = second if isinstance(second, list) else [second]
            data = [{"index": at, "object": "score", "score": 1 / (at + 1)}
                    for at in range(len(texts))]  # fmt: skip
            return {"id": "embd-1", "object": "list", "created": 1, "model": body["model"],
                    "data": data, "usage": _usage([str(first), *texts])}  # fmt: skip
        case _:
            results = [{"index": at, "document": {"text": text, "multi_modal": None},
                        "relevance_score": 1 / (at + 1)}
                       for at, text in enumerate(body["documents"])]  # fmt: skip
            return {"id": "rerank-1", "model": body["model"],
                    "results": results[: body.get("top_n") or None],
                    "usage": _usage([body["query"], *body["documents"]])}  # fmt: skip


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    inputs = body["input"]
    if isinstance(inputs, str) or isinstance(inputs[0], int):
        inputs = [inputs]
    size = body.get("dimensions") or DIMENSIONS
    vectors = [[float(len(text)), *[0.5] * (size - 1)] for text in inputs]
    shown: list[Any] = vectors
    if body.get("encoding_format") == "base64":
        shown = [base64.b64encode(struct.pack(f"<{size}f", *one)).decode() for one in vectors]
    data = [{"index": at, "object": "embedding", "embedding": one}
            for at, one in enumerate(shown)]  # fmt: skip
    return {"id": "embd-1", "object": "list", "created": 1, "model": body["model"], "data": data,
            "usage": _usage(inputs), "kv_transfer_params": {"host": "10.0.0.7"}}  # fmt: skip


def _usage(texts: list[Any]) -> dict[str, Any]:
    count = sum(count_tokens(text) if isinstance(text, str) else len(text) for text in texts)
    return {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0,
            "prompt_tokens_details": None}  # fmt: skip


def route(path: str) -> Callable[[Any, Exchange], Awaitable[None]]:
    """A handler for one path."""

    async def handler(host: Host, exchange: Exchange) -> None:
        await answer(host, exchange, path)

    return handler


ROUTES = {
    ("POST", path): route(path)
    for path in ("/detokenize", "/v1/embeddings", "/v1/score", "/v1/rerank")
}
