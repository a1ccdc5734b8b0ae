"""llama.cpp's `llama-server`: adapters are given at start, and each request scales them.

The stem of a LoRA file is its name: `support@7-1a2b3c4d.gguf` holds version 7 of `support`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import PureWindowsPath

import msgspec

from gateway.workers.admin import Ask, Capabilities, ServedModel, WorkerMetrics
from gateway.workers.errors import MeasureFailed, WorkerUnreachable
from gateway.workers.exchange import Exchange, Fixed, reason

FORCED = 10_000.0
"""A bias that no logit outweighs."""
CACHE_OFF = "cache-ram-0"
"""An alias by which a server says that it was started with `--cache-ram 0`."""
AT_ONCE = 4
"""Calls that measure, on one worker: it has few threads, and an idle connection keeps one."""
_BOOT = "Process-Start-Time-Unix"
REQUESTS = re.compile(rb"^llamacpp:requests_(processing|deferred) ([0-9]+)", re.MULTILINE)


class _Adapter(msgspec.Struct):
    id: int
    path: str


class _Scored(msgspec.Struct):
    id: int
    logprob: float


class _Completion(msgspec.Struct):
    completion_probabilities: list[_Scored] = []


_adapters = msgspec.json.Decoder(list[_Adapter])
_completion = msgspec.json.Decoder(_Completion)


def named(
    adapters: Sequence[_Adapter], base: str, names: Mapping[str, str], *, may_cache: bool = False
) -> list[ServedModel]:
    """Give the base and its adapters; `names` are stems by the names that versions go by.

    Every scale is told in every request, since an adapter that is given at start applies to all
    requests that do not speak of it. Prompts are read anew each time, unless the worker `may_cache`
    them: llama-server's cache in RAM goes by tokens alone, and gives one adapter what it has kept
    of another.
    """
    cache: dict[str, object] = {} if may_cache else {"cache_prompt": False}

    def ask(chosen: int | None) -> Ask:
        scales = [{"id": a.id, "scale": 1.0 if a.id == chosen else 0.0} for a in adapters]
        return Ask(base, msgspec.json.encode({"lora": scales, **cache})) if scales else Ask(base)

    ours = {stem: name for name, stem in names.items()}
    served = [ServedModel(base, base, None, ask(None))]
    for adapter in adapters:
        stem = PureWindowsPath(adapter.path).name.removesuffix(".gguf")  # knows both separators
        served.append(ServedModel(ours.get(stem, stem), adapter.path, base, ask(adapter.id)))
    return served


class LlamaCppAdmin(Fixed):
    """`llama-server`, started with its adapters in `--lora` and with `--metrics`."""

    capabilities = Capabilities(runtime_load=False, forced_tokens=True)

    def __init__(self, exchange: Exchange) -> None:
        self.spec = exchange.spec
        self._exchange = exchange

    async def health(self) -> bool:
        """Whether `/health` answers 200: 503 while the model is being read."""
        return (await self._exchange.call("GET", "/health")).status == HTTPStatus.OK

    async def models(self) -> tuple[ServedModel, ...]:
        """The model of `/v1/models` and the adapters of `/lora-adapters`."""
        cards = await self._exchange.cards()
        if not cards:
            raise WorkerUnreachable("the model list is empty")
        status, body, _ = await self._exchange.call("GET", "/lora-adapters")
        if status != HTTPStatus.OK:
            raise WorkerUnreachable(f"the list of adapters answers {status} {reason(body)}")
        try:
            adapters = _adapters.decode(body)
        except msgspec.DecodeError as error:
            raise WorkerUnreachable(f"the list of adapters cannot be read: {error}") from error
        base, declared = cards[0], dict(self.spec.options.models)
        return tuple(named(adapters, base.id, declared, may_cache=CACHE_OFF in base.aliases))

    async def metrics(self) -> WorkerMetrics:
        """The figures of `/metrics`, whose header tells one boot from another."""
        status, body, headers = await self._exchange.call("GET", "/metrics")
        if status != HTTPStatus.OK:
            return WorkerMetrics()
        found = {name: int(value) for name, value in REQUESTS.findall(body)}
        return WorkerMetrics(
            headers.get(_BOOT), found.get(b"processing", 0), found.get(b"deferred", 0)
        )

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """Have the worker say each token of the answer, and read how likely it was.

        One call a token, several at once: a worker that is busy lets them wait in a row, and one
        after another they would wait as often as there are tokens.
        """
        ask = next((served.ask for served in await self.models() if served.name == model), None)
        if ask is None:
            raise MeasureFailed(f"The worker lists no {model}.")
        ids, failed, free = list(token_ids), None, asyncio.Semaphore(AT_ONCE)

        async def score(place: int) -> float:
            async with free:
                return await self._forced(ask, ids[:place], ids[place])

        try:
            async with asyncio.TaskGroup() as group:
                scored = [group.create_task(score(at)) for at in range(answer_start, len(ids))]
        except* (WorkerUnreachable, MeasureFailed) as errors:
            failed = errors.exceptions[0]
        if failed is not None:
            raise failed
        return [task.result() for task in scored]

    async def _forced(self, ask: Ask, prefix: list[int], token: int) -> float:
        """Log-probability of one token after a prefix, from the logits before any bias."""
        status, body, _ = await self._exchange.call(
            "POST",
            "/completion",
            {
                **msgspec.json.decode(ask.more),
                "prompt": prefix,
                "n_predict": 1,
                "temperature": 0,
                "logit_bias": [[token, FORCED]],
                "n_probs": 1,
                "post_sampling_probs": False,
            },
            work=True,
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WorkerUnreachable(f"measuring answers {status} {reason(body)}")
        if status != HTTPStatus.OK:
            raise MeasureFailed(f"Measuring answers {status} {reason(body)}")
        return _logprob_of(token, body)


def _logprob_of(token: int, body: bytes) -> float:
    try:
        scored = _completion.decode(body).completion_probabilities
    except msgspec.DecodeError as error:
        raise MeasureFailed(f"The worker's log-probabilities cannot be read: {error}") from error
    if not scored:
        raise MeasureFailed(
            f"The worker scores no token {token}: llama-server leaves out those that split a"
            " character. Let the fingerprint have an answer without them."
        )
    if scored[0].id != token:
        raise MeasureFailed(f"The worker says the token {scored[0].id}, not {token}.")
    return scored[0].logprob
