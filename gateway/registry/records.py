"""What the registry tells of itself beyond the snapshot: for controllers, operators and the CLI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.registry.snapshot import Alias, Key, Placement, Version, VersionState

LIVE_GATEWAY_S = 8.0
"""Seconds without a heartbeat, of which there are two a second, after which a gateway is dead. Less
than a call waits for an adapter: so one that needs another's place comes through all the same."""
ROLES = ("app", "reviewer", "trainer", "admin")
PURPOSES = ("serve", "evaluation")
KeyState = Literal["valid", "expired", "revoked"]
OPTIONS = "options"
"""The kind of a line in an alias's record that tells of new options."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The outcome of a registration; `created` is False where the same bytes were there already."""

    version: Version
    created: bool


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as listed: its `prefix` tells keys apart, the secret is not kept."""

    key: Key
    prefix: str
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class WantedKeys:
    """Which keys a list is to have, from beyond the id `after`; None leaves a field open."""

    owner: str | None = None
    role: str | None = None
    state: KeyState | None = None
    after: int | None = None
    limit: int | None = None


EVERY_KEY = WantedKeys()


@dataclass(frozen=True, slots=True)
class WantedAliases:
    """Which aliases a list is to have, from beyond the name `after`; None leaves a field open."""

    names: frozenset[str] | None = None
    prefix: str = ""
    after: str | None = None
    limit: int | None = None


EVERY_ALIAS = WantedAliases()


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as last seen. `seen_at` is None until it has answered once."""

    name: str
    url: str
    kind: str
    boot: str
    healthy: bool
    detail: str
    metrics: Mapping[str, Any]
    seen_at: float | None


@dataclass(frozen=True, slots=True)
class GatewayBeat:
    """A gateway's last heartbeat: the revision it routes by, and its calls in flight.

    `busy` holds what `in_flight` gives for each worker and worker-side name.
    """

    id: str
    host: str
    revision: int
    busy: frozenset[str]
    heartbeat_at: float


@dataclass(frozen=True, slots=True)
class StateChange:
    """One line of a version's append-only record."""

    version_id: int
    state: VersionState
    reason: str
    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's append-only record.

    `kind` is promote, rollback or rollout; or options, which moves no version.
    """

    kind: str
    from_version: int | None
    to_version: int | None
    detail: Mapping[str, Any]
    actor: str
    at: float

    @property
    def is_driven(self) -> bool:
        """Whether this began a canary that is the controller's to end."""
        return self.kind == "rollout" and bool(self.detail.get("driven"))

    @property
    def is_shadow(self) -> bool:
        """Whether this began a shadow: copies of calls, before any caller gets an answer."""
        return self.kind == "rollout" and int(self.detail.get("step", 0)) < 0

    @property
    def since(self) -> float:
        """When the rollout began that this is a step of."""
        return float(self.detail.get("since", self.at))


@dataclass(frozen=True, slots=True)
class Seen:
    """A placement with the time of its last check, and whether its worker still runs as then."""

    placement: Placement
    checked_at: float
    current: bool


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """A version with all that happened to it and every worker that has it.

    `waiting` says why no worker takes it, where that will not change by itself.
    """

    version: Version
    manifest: Mapping[str, Any]
    created_at: float
    used_at: float
    events: tuple[StateChange, ...] = ()
    seen: tuple[Seen, ...] = ()
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class AliasDetail:
    """An alias with its versions, oldest first, and the lines of its record, oldest first.

    `base` is the base model that version 0 is for it.
    """

    alias: Alias
    base: str
    versions: tuple[VersionDetail, ...] = ()
    record: tuple[AliasMove, ...] = ()

    @property
    def moves(self) -> tuple[AliasMove, ...]:
        """What moved versions: the record without new options."""
        return tuple(line for line in self.record if line.kind != OPTIONS)


@dataclass(frozen=True, slots=True)
class Demand:
    """What placement goes by and no revision tells of; times are the store's, as `now` is.

    `used_at` gives by version id when it was last called (its registration counts), `checked_at`
    by worker and version id when the placement was last proven.
    """

    now: float
    used_at: Mapping[int, float]
    checked_at: Mapping[tuple[str, int], float]


def in_flight(worker: str, name: str) -> str:
    """How a heartbeat tells that calls to a worker are in flight under a worker-side name."""
    return f"{name} {worker}"
