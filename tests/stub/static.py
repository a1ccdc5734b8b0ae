"""A strict server with OpenAI's routes: fixed models, a key, and no field that OpenAI lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from . import effects, shapes
from .http import Exchange
from .worker import Adapter, Worker, decode

_FOREIGN = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "lora")


class StaticWorker(Worker):
    """Serves `base` and the named adapters to whoever has the key."""

    def __init__(self, base: str, names: Sequence[str], key: str = "") -> None:
        self.names = tuple(names)
        self.key = key
        super().__init__(base=base)

    def reboot(self) -> None:
        """Start with the same adapters as ever."""
        super().reboot()
        nothing = effects.Weights(b"", {}, {})
        self.adapters = {name: Adapter(name, "", nothing) for name in self.names}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one HTTP request that shows the key."""
        headers = dict(scope["headers"])
        if self.key and headers.get(b"authorization") != f"Bearer {self.key}".encode():
            exchange = Exchange(scope, receive, send)
            await exchange.fail(401, "Incorrect API key provided.", "invalid_request_error")
            return
        await super().__call__(scope, receive, send)

    async def _models(self, exchange: Exchange) -> None:
        data = [{"id": name, "object": "model", "owned_by": "x"} for name in
                (self.base, *self.adapters)]  # fmt: skip
        await exchange.reply(200, shapes.encode({"object": "list", "data": data}))

    async def _generate(self, exchange: Exchange) -> None:
        body = decode(exchange.body)
        foreign = [name for name in _FOREIGN if name in body]
        foreign += [n for n in (body.get("stream_options") or {}) if n != "include_usage"]
        if foreign:
            text = f"Unrecognized request argument supplied: {foreign[0]}"
            return await exchange.fail(400, text, "invalid_request_error")
        return await super()._generate(exchange)

    _routes: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("GET", "/v1/models"): _models,
        ("POST", "/v1/chat/completions"): _generate,
        ("POST", "/v1/completions"): _generate,
    }
