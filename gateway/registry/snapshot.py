"""The registry as one immutable value: what the serving path reads, and all that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

BASE_TENANT = "*"
BASE_ALIAS = "base"
DEFAULT_TENANT = "default"


class VersionState(StrEnum):
    """Where a version stands in its life; the record of changes is append-only."""

    REGISTERED = "registered"
    VERIFYING = "verifying"
    CANDIDATE = "candidate"
    SERVING = "serving"
    RETIRED = "retired"
    REJECTED = "rejected"


class Effect(StrEnum):
    """What a worker answers with after a load, against the version's reference deltas."""

    EFFECTIVE = "effective"
    NO_EFFECT = "no_effect"
    MISMATCH = "mismatch"
    UNDECIDABLE = "undecidable"
    DECLARED = "declared"  # the operator says so, and this kind of worker cannot be measured


CALLABLE = frozenset({VersionState.CANDIDATE, VersionState.SERVING})
_ROUTABLE = (Effect.EFFECTIVE, Effect.UNDECIDABLE, Effect.DECLARED)


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version; `number` 0 is the base model itself.

    It is an adapter of `rank`; with rank 0 it is a merged model, which workers are started with.
    `draining` versions get no new calls; `draining_since` is the revision that said so. `pinned` is
    the number of workers that are to hold it whatever happens, 0 where it must make room.
    """

    id: int
    tenant: str
    alias: str
    number: int
    sha256: str
    path: str
    base_model: str
    rank: int
    state: VersionState
    draining: bool = False
    draining_since: int | None = None
    pinned: int = 0

    @property
    def model(self) -> str:
        """The name that clients see, `support@7`; the base model is `base@0`."""
        return f"{self.alias}@{self.number}"

    @property
    def worker_name(self) -> str:
        """The name on workers: `alias@version-<first 8 of sha256>`; same name, same bytes."""
        return f"{self.alias}@{self.number}-{self.sha256[:8]}"

    @property
    def is_base(self) -> bool:
        """Whether this is the base model, which every worker of that base serves without a load."""
        return self.number == 0

    @property
    def is_merged(self) -> bool:
        """Whether this is a whole model, served by workers whose base it is, and never loaded."""
        return self.number > 0 and self.rank == 0


@dataclass(frozen=True, slots=True)
class AliasOptions:
    """What an alias brings along to each call; None leaves it to client and worker.

    The first twelve are defaults of the request's fields. `logprobs` is the share of the calls
    (0..1) for which workers are asked how likely their tokens were. `fallback` names who answers,
    in this order, where the alias's own version cannot: `support@3`, `base`, another alias.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    system_prompt: str | None = None
    logprobs: float | None = None
    fallback: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, Any]:
        """The options that are set, as JSON has them."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values
            if value not in (None, ())
        }

    @property
    def sampling(self) -> dict[str, Any]:
        """The defaults that are set, by the request's fields."""
        given = self.given
        return {name: given[name] for name in given.keys() - _NO_DEFAULTS}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> AliasOptions:
        """Make the options again of what was `given`."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
        return cls(**values)


_NO_DEFAULTS = {"system_prompt", "logprobs", "fallback"}
NO_OPTIONS = AliasOptions()


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that apps call, where it leads, and what it brings along.

    `stable` is None while nothing has been promoted. With a rollout, `candidate` gets `weight`
    (0..1) of the callers; `shadow` is the share of the calls of which it gets a copy that nobody
    is shown. `moved_at` is when it was last led elsewhere.
    """

    name: str
    tenant: str
    stable: Version | None
    previous: Version | None = None
    candidate: Version | None = None
    weight: float = 0.0
    created: int = 0
    options: AliasOptions = NO_OPTIONS
    moved_at: float = 0.0
    shadow: float = 0.0


Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None is no limit. A budget is for a calendar day or month in UTC.

    `priority` tells who goes first where calls wait for room on the workers. `max_parallel` bounds
    the calls at once in one gateway.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    token_budget: int | None = None
    budget_period: str = "month"
    priority: Priority = "normal"
    max_parallel: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is counted over a time; calls at once and a priority are not."""
        return (self.requests_per_minute, self.tokens_per_minute, self.token_budget) != _UNLIMITED


_UNLIMITED = (None, None, None)
NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the serving path knows it; the secret itself is never stored.

    `account` is what its use is counted under: the id of the first key that it was rotated from.
    """

    id: int
    tenant: str
    owner: str
    role: str
    aliases: frozenset[str] | None
    expires_at: float | None
    purpose: str = "serve"
    limits: KeyLimits = NO_LIMITS
    account: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A version seen on a worker; routable only with an effect in the worker's present boot."""

    worker: str
    version_id: int
    boot: str
    effect: Effect | None
    detail: str = ""

    @property
    def routable(self) -> bool:
        """Whether calls may be sent there (NO_EFFECT and MISMATCH never are)."""
        return self.effect in _ROUTABLE


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What else is configured of a worker.

    `api_key_env` names the variable of the environment that holds its key: the key itself is kept
    nowhere. `models` are pairs of what versions are called (`support@3`, `base`) and the worker's
    own names for them. `base` is the alias of its base model where its list does not tell.
    """

    api_key_env: str | None = None
    models: tuple[tuple[str, str], ...] = ()
    base: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker as configured: `url` without a trailing slash, `kind` such as `vllm`.

    `left_out` are pairs of names on workers (`support@7-1a2b3c4d`) and why whoever starts this
    worker starts it without them.
    """

    name: str
    url: str
    kind: str = "vllm"
    options: WorkerOptions = WorkerOptions()
    left_out: tuple[tuple[str, str], ...] = ()

    def is_reached_as(self, other: WorkerSpec) -> bool:
        """Whether nothing differs that talking to the worker depends on."""
        return replace(self, left_out=other.left_out) == other


def why_left_out(version: Version, workers: Iterable[WorkerSpec]) -> str:
    """Say why workers were started without a version; empty where none was."""
    reasons = {
        f"A worker of kind {worker.kind} runs without it: {reason}"
        for worker in workers
        for name, reason in worker.left_out
        if name == version.worker_name
    }
    return " ".join(sorted(reasons))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view of keys, aliases, versions, workers and placements.

    `catalog` is the revision of the last change of anything but placements.
    """

    revision: int
    keys: Mapping[str, Key]
    aliases: Mapping[tuple[str, str], Alias]
    versions: Mapping[tuple[str, str, int], Version]
    workers: Mapping[str, WorkerSpec]
    placements: Mapping[int, tuple[Placement, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    catalog: int = 0

    def fallbacks(self, alias: Alias) -> tuple[Version, ...]:
        """The versions that may answer in an alias's place, in order.

        Another alias stands for its stable version. What has ended meanwhile, or leads nowhere
        yet, is left out.
        """
        found = (self._named(alias.tenant, entry) for entry in alias.options.fallback)
        return tuple(v for v in found if v is not None and v.state in CALLABLE and not v.draining)

    def _named(self, tenant: str, entry: str) -> Version | None:
        name, pinned, number = entry.partition("@")
        alias = self.aliases.get((tenant, name)) or self.aliases.get((BASE_TENANT, name))
        if alias is None or not pinned:
            return alias.stable if alias is not None else None
        return self.versions.get((alias.tenant, name, int(number)))
