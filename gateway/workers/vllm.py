"""vLLM: adapters are loaded and unloaded while it runs."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from math import isfinite

import msgspec

from gateway.workers.admin import Capabilities, ServedModel, WorkerMetrics
from gateway.workers.errors import LoadRefused, MeasureFailed, NameTaken, WorkerUnreachable
from gateway.workers.exchange import Exchange, reason

_METRIC = re.compile(
    rb"^(process_start_time_seconds|vllm:num_requests_running|vllm:num_requests_waiting"
    rb"|vllm:kv_cache_usage_perc)(?:\{[^\n]*\})? ([^ \n]+)",
    re.MULTILINE,
)
_ACTIVE = re.compile(
    rb"^vllm:lora_requests_info\{(?:[^\n]*,)?running_lora_adapters=\"([^\"\n]*)\"[^\n]*\}"
    rb" ([^ \n]+)",
    re.MULTILINE,
)
_ASLEEP = re.compile(
    rb"^vllm:engine_sleep_state\{[^\n]*sleep_state=\"awake\"[^\n]*\} 0(?:\.0)?$", re.MULTILINE
)
_SLEPT = re.compile(
    rb"^vllm:sleep_mode_operation_duration_seconds_count\{(?:[^\n]*,)?operation=\"sleep\"[^\n]*\}"
    rb" ([0-9]+)",
    re.MULTILINE,
)
SCORED_AT_ONCE = 4  # more in one step of the engine would hold up the calls that run beside them


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def parse_metrics(text: bytes) -> WorkerMetrics:
    """Read what matters out of a Prometheus page.

    Requests are summed over the worker's engines; for the cache the fullest engine counts, and one
    that sleeps is enough.
    """
    boot: str | None = None
    running = waiting = kv_usage = 0.0
    for name, raw in _METRIC.findall(text):
        try:
            value = float(raw)
        except ValueError:
            continue
        if not isfinite(value):
            continue
        if name.endswith(b"running"):
            running += value
        elif name.endswith(b"waiting"):
            waiting += value
        elif name.endswith(b"perc"):
            kv_usage = max(kv_usage, value)
        else:
            boot = f"{value:.2f}{_slept(text)}"
    asleep = _ASLEEP.search(text) is not None
    return WorkerMetrics(boot, int(running), int(waiting), kv_usage, _active(text), asleep)


def _slept(text: bytes) -> str:
    """Mark a boot by the sleeps in it, for it ends with each: what the worker held may be gone."""
    slept = sum(map(int, _SLEPT.findall(text)))
    return f"+{slept}" if slept else ""


def _active(text: bytes) -> frozenset[str]:
    """The adapters of the newest batch: vLLM has a line for each set there ever was, with its time.

    The time is a figure in seconds; lines that hold none are left out.
    """
    newest, names = 0.0, b""
    for running, raw in _ACTIVE.findall(text):
        try:
            at = float(raw)
        except ValueError:
            continue
        if at >= newest:
            newest, names = at, running
    return frozenset(names.decode("utf-8", "replace").split(",")) - {""}


class VllmAdmin:
    """vLLM with runtime LoRA updating allowed."""

    capabilities = Capabilities(runtime_load=True, forced_tokens=True)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def health(self) -> bool:
        """Whether `/health` answers 200."""
        status, _, _ = await self._exchange.call("GET", "/health")
        return status == HTTPStatus.OK

    async def models(self) -> tuple[ServedModel, ...]:
        """The lines of `/v1/models`."""
        cards = await self._exchange.cards()
        return tuple(
            ServedModel(card.id, card.root or "", card.parent, context=card.max_model_len)
            for card in cards
        )

    async def load(self, name: str, path: str) -> None:
        """Load once: never in place, since vLLM keys its prefix cache by the adapter's name."""
        status, body, _ = await self._exchange.call(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": path},
            work=True,
        )
        if status == HTTPStatus.OK:
            return
        if status == HTTPStatus.BAD_REQUEST and await self._taken(name, path):
            return
        if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE):
            raise WorkerUnreachable(f"the load answers {status} {reason(body)}")
        raise LoadRefused(f"The worker refused to load {name}: {status} {reason(body)}")

    async def _taken(self, name: str, path: str) -> bool:
        """Whether the name is there with our files, which makes vLLM's 400 a success."""
        for model in await self.models():
            if model.name == name:
                # The folder is named by its digest, wherever it lies on the worker.
                if model.root.rpartition("/")[2] == path.rpartition("/")[2]:
                    return True
                raise NameTaken(f"{name} leads to other files on this worker: {model.root}")
        return False

    async def unload(self, name: str) -> None:
        """Unload; 404 means that it is gone already."""
        status, body, _ = await self._exchange.call(
            "POST",
            "/v1/unload_lora_adapter",
            {"lora_name": name},
            work=True,
        )
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise WorkerUnreachable(f"unloading {name} answers {status} {reason(body)}")

    async def metrics(self) -> WorkerMetrics:
        """The figures of `/metrics`."""
        status, body, _ = await self._exchange.call("GET", "/metrics")
        return parse_metrics(body) if status == HTTPStatus.OK else WorkerMetrics()

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """Have the worker say each token of the answer, and read how likely it was.

        One call a token, since what is forced holds for a whole call. Two shorter ways are closed:
        `prompt_logprobs` kills vLLM's CPU engine when another call shares its batch, and
        `logprob_token_ids` replaces the `top_logprobs` of the calls beside it.
        """
        ids = list(token_ids)
        # Nothing that an earlier boot of these names left in the prefix cache may answer.
        salt = secrets.token_hex(8)
        scored: list[float] = []
        for at in range(answer_start, len(ids), SCORED_AT_ONCE):
            places = range(at, min(at + SCORED_AT_ONCE, len(ids)))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._forced(model, ids[:place], ids[place], salt))
                        for place in places
                    ]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            scored += [task.result() for task in tasks]
        return scored

    async def _forced(self, model: str, prefix: list[int], token: int, salt: str) -> float:
        """Log-probability of one token after a prefix, before anything was forced."""
        status, body, _ = await self._exchange.call(
            "POST",
            "/v1/completions",
            {
                "model": model,
                "prompt": prefix,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 0,
                "allowed_token_ids": [token],
                "return_tokens_as_token_ids": True,
                "add_special_tokens": False,
                "cache_salt": salt,
            },
            work=True,
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WorkerUnreachable(f"measuring {model} answers {status} {reason(body)}")
        if status != HTTPStatus.OK:
            raise MeasureFailed(f"Measuring {model} answers {status} {reason(body)}")
        return _logprob_of(token, body)


def _logprob_of(token: int, body: bytes) -> float:
    try:
        [choice] = msgspec.json.decode(body, type=_Completion).choices
    except (msgspec.DecodeError, ValueError) as error:
        raise MeasureFailed(f"The worker's log-probabilities cannot be read: {error}") from error
    if choice.logprobs.tokens != [f"token_id:{token}"]:
        raise MeasureFailed(f"The worker says {choice.logprobs.tokens}, not the token {token}.")
    if len(choice.logprobs.token_logprobs) != 1:
        raise MeasureFailed("The worker's log-probabilities do not go with its tokens.")
    return choice.logprobs.token_logprobs[0]
