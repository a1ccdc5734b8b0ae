"""The admin side of a worker: what it serves, how it fares, and changes to what it serves.

`WorkerAdmin` is the seam. `VllmAdmin` speaks vLLM's HTTP; other kinds go beside it and into
`make_admin`. Completions for clients do not pass here: this is for probes, loads and verification.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
import msgspec

from gateway.registry.snapshot import WorkerSpec
from gateway.workers.errors import (
    LoadRefused,
    MeasureFailed,
    NameTaken,
    UnsupportedKind,
    WorkerSlow,
    WorkerUnreachable,
)

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
SCORED_AT_ONCE = 4  # more in one step of the engine would hold up the calls that run beside them


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A line of the worker's model list; `parent` is None for a base model."""

    name: str
    root: str
    parent: str | None

    @property
    def is_base(self) -> bool:
        """Whether this is a model of its own rather than an adapter of one."""
        return self.parent is None


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """A worker's own figures; `boot` is None where it does not tell when it started.

    `active` are the adapters in the batch that it last ran.
    """

    boot: str | None = None
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    active: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of worker can do, declared rather than guessed."""

    runtime_load: bool
    token_logprobs: bool


class WorkerAdmin(Protocol):
    """What the control side needs of one worker.

    Every method raises `WorkerUnreachable` where no usable answer comes, and its kind `WorkerSlow`
    where that is for lack of time.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this worker can do."""
        ...

    async def health(self) -> bool:
        """Whether the worker says that it can serve."""
        ...

    async def models(self) -> tuple[ServedModel, ...]:
        """Every base model and adapter that the worker lists."""
        ...

    async def load(self, name: str, path: str) -> None:
        """Make the adapter at `path` answer to `name`; a name that already leads there is fine.

        Raises `LoadRefused` where the worker says no, `NameTaken` where the name leads elsewhere.
        """
        ...

    async def unload(self, name: str) -> None:
        """Take an adapter away; an unknown name is fine."""
        ...

    async def metrics(self) -> WorkerMetrics:
        """The worker's own figures, empty where it publishes none."""
        ...

    async def answer_logprobs(
        self, model: str, token_ids: Sequence[int], answer_start: int
    ) -> list[float]:
        """Log-probability under `model` of each token from `answer_start` on.

        Never disturbs the calls that run beside it. Raises `MeasureFailed` where the worker
        answers without them.
        """
        ...


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    parent: str | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def parse_metrics(text: bytes) -> WorkerMetrics:
    """Read what matters out of a Prometheus page.

    Requests are summed over the worker's engines; for the cache the fullest engine counts.
    """
    boot: str | None = None
    running = waiting = kv_usage = 0.0
    for name, raw in _METRIC.findall(text):
        try:
            value = float(raw)
        except ValueError:
            continue
        if name.endswith(b"running"):
            running += value
        elif name.endswith(b"waiting"):
            waiting += value
        elif name.endswith(b"perc"):
            kv_usage = max(kv_usage, value)
        else:
            boot = f"{value:.2f}"
    return WorkerMetrics(boot, int(running), int(waiting), kv_usage, _active(text))


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
    """vLLM with runtime LoRA updating allowed.

    `timeout` bounds the cheap calls, `work_timeout` loads and measurements, which on a CPU under
    traffic take seconds.
    """

    capabilities = Capabilities(runtime_load=True, token_logprobs=True)

    def __init__(
        self,
        spec: WorkerSpec,
        session: aiohttp.ClientSession,
        *,
        timeout: float = 5.0,
        work_timeout: float = 60.0,
    ) -> None:
        self._url = spec.url.rstrip("/")
        self._session = session
        self._timeout = timeout
        self._work_timeout = work_timeout

    async def health(self) -> bool:
        """Whether `/health` answers 200."""
        status, _ = await self._call("GET", "/health")
        return status == HTTPStatus.OK

    async def models(self) -> tuple[ServedModel, ...]:
        """The lines of `/v1/models`."""
        status, body = await self._call("GET", "/v1/models")
        if status != HTTPStatus.OK:
            raise WorkerUnreachable(f"the model list answers {status}")
        try:
            cards = msgspec.json.decode(body, type=_Cards)
        except msgspec.DecodeError as error:
            raise WorkerUnreachable(f"the model list cannot be read: {error}") from error
        return tuple(ServedModel(card.id, card.root or "", card.parent) for card in cards.data)

    async def load(self, name: str, path: str) -> None:
        """Load once: never in place, since vLLM keys its prefix cache by the adapter's name."""
        status, body = await self._call(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": path},
            limit=self._work_timeout,
        )
        if status == HTTPStatus.OK:
            return
        if status == HTTPStatus.BAD_REQUEST and await self._taken(name, path):
            return
        if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE):
            raise WorkerUnreachable(f"the load answers {status} {_reason(body)}")
        raise LoadRefused(f"The worker refused to load {name}: {status} {_reason(body)}")

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
        status, body = await self._call(
            "POST",
            "/v1/unload_lora_adapter",
            {"lora_name": name},
            limit=self._work_timeout,
        )
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise WorkerUnreachable(f"unloading {name} answers {status} {_reason(body)}")

    async def metrics(self) -> WorkerMetrics:
        """The figures of `/metrics`."""
        status, body = await self._call("GET", "/metrics")
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
        status, body = await self._call(
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
            limit=self._work_timeout,
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise WorkerUnreachable(f"measuring {model} answers {status} {_reason(body)}")
        if status != HTTPStatus.OK:
            raise MeasureFailed(f"Measuring {model} answers {status} {_reason(body)}")
        return _logprob_of(token, body)

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        limit: float | None = None,
    ) -> tuple[int, bytes]:
        """One exchange with a time limit; redirects are not followed, a worker sends none."""
        try:
            async with self._session.request(
                method,
                self._url + path,
                json=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit or self._timeout),
            ) as answer:
                return answer.status, await answer.read()
        except TimeoutError as error:
            raise WorkerSlow(f"{path} took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise WorkerUnreachable(f"{path}: {type(error).__name__}: {error}") from error


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


def _reason(body: bytes) -> str:
    """The worker's own words, short enough for a log line."""
    try:
        error = msgspec.json.decode(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (msgspec.DecodeError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300]


def make_admin(spec: WorkerSpec, session: aiohttp.ClientSession) -> WorkerAdmin:
    """Build the admin client for a worker's kind. Raises `UnsupportedKind`."""
    match spec.kind:
        case "vllm":
            return VllmAdmin(spec, session)
        case _:
            raise UnsupportedKind(
                f"Worker {spec.name} is of kind {spec.kind!r}; supported kinds: vllm."
            )
