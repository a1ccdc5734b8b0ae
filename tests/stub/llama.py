"""llama.cpp's `llama-server` as far as the gateway speaks to it: adapters given at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from . import effects, shapes
from .http import PLAIN, Exchange
from .script import Script
from .worker import Adapter, Worker, decode


class LlamaWorker(Worker):
    """`given` are adapter folders by the name of their LoRA file; `restart` after a change."""

    def __init__(self, given: Mapping[str, Path] | None = None) -> None:
        self.given = dict(given or {})
        super().__init__(base="tiny.gguf")
        self.script = Script(extra_fields={"timings": {"predicted_n": 1}, "__verbose": {}})

    def reboot(self) -> None:
        """Start with the given adapters."""
        super().reboot()
        for name, folder in self.given.items():
            path = f"/loras/{name}.gguf"
            weights = effects.Weights.read(str(folder))
            fault = "none" if callable(self.load_fault) else self.load_fault
            self.adapters[name] = Adapter(name, path, weights, fault)

    async def _models(self, exchange: Exchange) -> None:
        card = {"id": self.base, "object": "model", "owned_by": "llamacpp", "meta": {}}
        await exchange.reply(200, shapes.encode({"object": "list", "data": [card], "models": []}))

    async def _loras(self, exchange: Exchange) -> None:
        listed = [{"id": at, "path": adapter.path, "scale": 1.0}
                  for at, adapter in enumerate(self.adapters.values())]  # fmt: skip
        await exchange.reply(200, shapes.encode(listed))

    async def _metrics(self, exchange: Exchange) -> None:
        text = f"llamacpp:requests_processing {self.seen.running}\nllamacpp:requests_deferred 0\n"
        boot = (b"process-start-time-unix", str(int(self.started * 1e6)).encode())
        await exchange.start(200, [PLAIN, boot])
        await exchange.write(text.encode(), more=False)

    async def _completion(self, exchange: Exchange) -> None:
        body = decode(exchange.body)
        [[token, _]] = body["logit_bias"]
        known = [adapter.weights for adapter in self.adapters.values()]
        weights, flip = self._weights(self._chosen(body))
        logprob = effects.next_mean(tuple(body["prompt"]), token, weights, known)
        scored = {"id": token, "token": "x", "bytes": [120], "logprob": -9.0 if flip else logprob,
                  "top_logprobs": []}  # fmt: skip
        made = {"content": "x", "tokens": [], "completion_probabilities": [scored]}
        await exchange.reply(200, shapes.encode(made))

    async def _generate(self, exchange: Exchange) -> None:
        """Answer with the adapter whose scale is 1; where none is told, with the first given."""
        body = decode(exchange.body)
        body["model"] = self._chosen(body)
        exchange.body = shapes.encode(body)
        await super()._generate(exchange)

    def _chosen(self, body: dict[str, Any]) -> str:
        names = list(self.adapters)
        if "lora" not in body:
            return names[0] if names else self.base
        on = [names[entry["id"]] for entry in body["lora"] if entry["scale"] == 1.0]
        return on[0] if on else self.base

    def _sample(self, asked: Any, script: Script, chat: bool) -> shapes.Answer:
        answer = super()._sample(asked, script, chat)
        return replace(answer, chat_logprobs=True)

    _routes: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        **Worker._routes,
        ("GET", "/metrics"): _metrics,
        ("GET", "/v1/models"): _models,
        ("GET", "/lora-adapters"): _loras,
        ("POST", "/completion"): _completion,
        ("POST", "/v1/chat/completions"): _generate,
        ("POST", "/v1/completions"): _generate,
    }
