"""A scripted stand-in for a vLLM 0.32 worker, over real HTTP.

    python -m tests.stub.worker --port 8001

In tests, `tests.stub.server.StubWorker` runs one on a thread. As a process of its own it is told
through `POST /_stub/script` (fields of `Script`, `load_fault`) and tells through
`GET /_stub/state`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import msgspec
import uvicorn

from . import effects, shapes, through
from .call import Call
from .http import PLAIN, Cut, Exchange, Protocol
from .script import Asked, LoadFault, Script, count_tokens

decode = msgspec.json.Decoder().decode


@dataclass
class Adapter:
    """A loaded adapter: where it came from, and how its load went wrong, if it did."""

    name: str
    path: str
    weights: effects.Weights
    fault: LoadFault = "none"


@dataclass
class Seen:
    """What a worker saw. `running` counts generations now, `max_running` their high-water mark.

    `requests` are the calls for an answer, `measured` those that a proof of effect makes.
    """

    running: int = 0
    max_running: int = 0
    aborted: int = 0
    finished: int = 0
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    paths: Counter[str] = field(default_factory=Counter)
    requests: deque[Asked] = field(default_factory=lambda: deque(maxlen=4096))
    measured: deque[Asked] = field(default_factory=lambda: deque(maxlen=4096))


class Worker:
    """The worker's state and its ASGI application.

    Its metrics tell of `batch` calls at most as running, and of the others as waiting; they are
    answered all the same.
    """

    def __init__(self, base: str = "base@0", root: str = "/models/base") -> None:
        self.base = base
        self.merged: effects.Weights | None = None  # what it was started with in place of a base
        self.root = root
        self.max_model_len = 2048
        self.script = Script()
        self.load_fault: LoadFault | Callable[[str], LoadFault] = "none"
        self.load_delay = 0.0
        self.fragile = False
        self.pooling = False
        self.through: list[tuple[str, dict[str, Any]]] = []
        self.batch: int | None = None
        self.kv_usage = 0.0
        self.seen = Seen()
        self.reboot()

    def reboot(self) -> None:
        """Forget all adapters and start a new boot, as a restarted process does."""
        self.adapters: dict[str, Adapter] = {}
        self.started = time.time()
        self.healthy = True
        self._scoring = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one HTTP request."""
        self.seen.paths[scope["path"]] += 1
        exchange = Exchange(scope, receive, send)
        if not await exchange.read():
            return
        handler = self._routes.get((scope["method"], scope["path"]))
        if handler is None:
            await exchange.reply(404, b'{"detail":"Not Found"}')
            return
        try:
            await handler(self, exchange)
        except msgspec.DecodeError as error:
            await exchange.fail(400, str(error), "Bad Request")
        except Cut:
            return

    async def _health(self, exchange: Exchange) -> None:
        await exchange.reply(200 if self.healthy else 503, b"")

    async def _version(self, exchange: Exchange) -> None:
        await exchange.reply(200, b'{"version":"0.32.0"}')

    async def _metrics(self, exchange: Exchange) -> None:
        label = f'{{engine="0",model_name="{self.base}"}}'
        now = self.seen.running
        running = now if self.batch is None else min(now, self.batch)
        text = (
            f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {self.started}\n"
            f"# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{label} {float(running)}\n"
            f"# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{label} {float(now - running)}\n"
            f"# TYPE vllm:kv_cache_usage_perc gauge\n"
            f"vllm:kv_cache_usage_perc{label} {self.kv_usage}\n"
        )
        await exchange.reply(200, text.encode(), PLAIN)

    async def _models(self, exchange: Exchange) -> None:
        def card(name: str, root: str, **more: Any) -> dict[str, Any]:
            return {"id": name, "object": "model", "created": int(time.time()),
                    "owned_by": "vllm", "root": root, "parent": None, "max_model_len": None,
                    "permission": []} | more  # fmt: skip

        cards = [card(self.base, self.root, max_model_len=self.max_model_len)]
        cards += [card(a.name, a.path, parent=self.base) for a in self.adapters.values()]
        await exchange.reply(200, shapes.encode({"object": "list", "data": cards}))

    async def _load(self, exchange: Exchange) -> None:
        wanted = decode(exchange.body)
        name, path = wanted.get("lora_name"), wanted.get("lora_path")
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
            return await exchange.fail(400, text, "InvalidUserInput")
        self.seen.loads.append(name)
        await asyncio.sleep(self.load_delay)
        fault = self.load_fault(name) if callable(self.load_fault) else self.load_fault
        if fault == "hang":
            await exchange.gone()
            raise Cut
        if fault == "error":
            return await exchange.fail(500, "Call to add_lora failed.", "InternalServerError")
        if name in self.adapters and not wanted.get("load_inplace"):
            text = f"The lora adapter '{name}' has already been loaded. If you want to load the" \
                   " adapter in place, set 'load_inplace' to True."  # fmt: skip
            return await exchange.fail(400, text, "InvalidUserInput")
        try:
            weights = await asyncio.to_thread(effects.Weights.read, path)
        except OSError:
            text = f"Loading lora {name} failed: No adapter found for {path}"
            return await exchange.fail(404, text, "NotFoundError")
        self.adapters[name] = Adapter(name, path, weights, fault)
        text = f"Success: LoRA adapter '{name}' added successfully."
        return await exchange.reply(200, text.encode(), PLAIN)

    async def _unload(self, exchange: Exchange) -> None:
        name = decode(exchange.body).get("lora_name", "")
        self.seen.unloads.append(name)
        if self.adapters.pop(name, None) is None:
            text = f"The lora adapter '{name}' cannot be found."
            return await exchange.fail(404, text, "NotFoundError")
        text = f"Success: LoRA adapter '{name}' removed successfully."
        return await exchange.reply(200, text.encode(), PLAIN)

    async def _tokenize(self, exchange: Exchange) -> None:
        asked = decode(exchange.body)
        count = shapes.count_prompt(Asked("/tokenize", self.base, asked), "messages" in asked)
        made = {"count": count, "max_model_len": self.max_model_len,
                "tokens": list(range(count)), "token_strs": None}  # fmt: skip
        await exchange.reply(200, shapes.encode(made))

    async def _generate(self, exchange: Exchange) -> None:
        body = decode(exchange.body)
        model = body.get("model") or self.base
        chat = exchange.scope["path"].endswith("/chat/completions")
        asked = Asked(exchange.scope["path"], model, body)
        measures = any(body.get(name) is not None for name in effects.MEASURING)
        (self.seen.measured if measures else self.seen.requests).append(asked)
        if model != self.base and model not in self.adapters:
            text = f"The model `{model}` does not exist."
            return await exchange.fail(404, text, "NotFoundError", param="model")
        if (count := shapes.count_prompt(asked, chat)) >= self.max_model_len:
            text = f"This model's maximum context length is {self.max_model_len} tokens." \
                   f" However, you requested {count} input tokens."  # fmt: skip
            return await exchange.fail(400, text, "BadRequestError", param="input_tokens")
        script = self.script
        if script.pick is not None:
            script = script.pick(asked) or script
        if not self._engine_lives(body):
            return await exchange.fail(500, "EngineCore encountered an issue.", "InternalError")
        self.seen.running += 1
        self.seen.max_running = max(self.seen.max_running, self.seen.running)
        try:
            answer = self._sample(asked, script, chat)
            await Call(self.seen, script, answer, exchange).run(self._measured(body))
        finally:
            self.seen.running -= 1

    def _engine_lives(self, body: dict[str, Any]) -> bool:
        """Whether the engine lives on after this call.

        vLLM 0.32 on a CPU with LoRA dies of a call with `prompt_logprobs` that shares its batch.
        """
        alone = self.seen.running == 0
        self._scoring = self._scoring if not alone else False
        scores = body.get("prompt_logprobs") is not None
        if self.fragile and not alone and (scores or self._scoring):
            self.healthy = False
        self._scoring = self._scoring or scores
        return self.healthy

    def _sample(self, asked: Asked, script: Script, chat: bool) -> shapes.Answer:
        adapter = self.adapters.get(asked.model)
        if adapter is None or adapter.fault != "no_effect":
            return shapes.sample(asked, script, chat=chat)
        # The known failure: the base answers under the adapter's name.
        answer = shapes.sample(replace(asked, model=self.base), script, chat=chat)
        return replace(answer, asked=asked)

    def _measured(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """What each choice says of the prompt's tokens, or of the tokens wanted after it."""
        prompts = shapes.prompts_of(body) if "prompt" in body else []
        wanted = body.get("logprob_token_ids") or body.get("allowed_token_ids")
        known = [adapter.weights for adapter in self.adapters.values()]
        known += [self.merged] if self.merged is not None else []
        weights, flip = self._weights(body.get("model"))
        made: list[dict[str, Any]] = []
        for prompt in prompts:
            ids = tuple(range(count_tokens(prompt))) if isinstance(prompt, str) else tuple(prompt)
            if wanted:
                forced = effects.forced_logprobs(ids, wanted, weights, known)
                if flip:
                    forced["top_logprobs"] = [dict.fromkeys(forced["top_logprobs"][0], -9.0)]
                    forced["token_logprobs"] = [-9.0]
                made.append({"logprobs": forced})
            elif body.get("prompt_logprobs") is not None:
                mean = -9.0 if flip else effects.mean_under(ids, weights, known)
                made.append({"prompt_logprobs": effects.prompt_logprobs(ids, mean)})
        return made

    def _weights(self, model: str | None) -> tuple[effects.Weights | None, bool]:
        """Whose weights answer to a name, and whether they are quite other ones."""
        adapter = self.adapters.get(model or self.base)
        if adapter is None or adapter.fault == "no_effect":
            return self.merged, False
        return adapter.weights, adapter.fault == "mismatch"

    async def _tell(self, exchange: Exchange) -> None:
        told = decode(exchange.body)
        if "load_fault" in told:
            self.load_fault = told["load_fault"]
        names = {entry.name for entry in fields(Script)}
        self.script = Script(**{key: told[key] for key in told if key in names})
        await exchange.reply(200, b"{}")

    async def _state(self, exchange: Exchange) -> None:
        seen = self.seen
        state = {"running": seen.running, "max_running": seen.max_running,
                 "aborted": seen.aborted, "finished": seen.finished, "loads": seen.loads,
                 "unloads": seen.unloads, "adapters": list(self.adapters),
                 "requests": len(seen.requests), "paths": dict(seen.paths)}  # fmt: skip
        await exchange.reply(200, shapes.encode(state))

    _routes: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("GET", "/health"): _health,
        ("GET", "/version"): _version,
        ("GET", "/metrics"): _metrics,
        ("GET", "/v1/models"): _models,
        ("POST", "/v1/load_lora_adapter"): _load,
        ("POST", "/v1/unload_lora_adapter"): _unload,
        ("POST", "/tokenize"): _tokenize,
        ("POST", "/v1/chat/completions"): _generate,
        ("POST", "/v1/completions"): _generate,
        ("POST", "/_stub/script"): _tell,
        ("GET", "/_stub/state"): _state,
        **through.ROUTES,
    }


def serving_config(worker: Any, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves a worker: quietly, and with nothing per request but the request."""
    return uvicorn.Config(worker, host=host, port=port, http=Protocol, log_level="critical",
                          access_log=False, lifespan="off", ws="none",
                          timeout_graceful_shutdown=1)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Run one stub worker until a signal ends it."""
    parser = argparse.ArgumentParser(description="A scripted stand-in for a vLLM worker.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--base", default="base@0")
    parser.add_argument("--root", default="/models/base")
    parser.add_argument("--text", help="the answer, in place of the default one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds between chunks")
    options = parser.parse_args(argv)
    worker = Worker(options.base, options.root)
    worker.script.delay = options.delay
    if options.text is not None:
        worker.script.text = options.text
    uvicorn.Server(serving_config(worker, options.host, options.port)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
