"""The kinds of workers."""

from __future__ import annotations

import aiohttp

from gateway.registry.snapshot import WorkerSpec
from gateway.workers.admin import WorkerAdmin
from gateway.workers.errors import UnsupportedKind
from gateway.workers.exchange import Exchange
from gateway.workers.llamacpp import LlamaCppAdmin
from gateway.workers.static import StaticAdmin, TensorRtAdmin
from gateway.workers.vllm import VllmAdmin


def make_admin(spec: WorkerSpec, session: aiohttp.ClientSession) -> WorkerAdmin:
    """Build the admin client for a worker's kind. Raises `UnsupportedKind`."""
    exchange = Exchange(spec, session)
    match spec.kind:
        case "vllm":
            return VllmAdmin(exchange)
        case "llamacpp":
            return LlamaCppAdmin(exchange)
        case "openai":
            return StaticAdmin(exchange)
        case "tensorrt_llm":
            return TensorRtAdmin(exchange)
        case _:
            raise UnsupportedKind(
                f"Worker {spec.name} is of kind {spec.kind!r}; supported kinds: vllm, llamacpp,"
                " tensorrt_llm, openai."
            )
