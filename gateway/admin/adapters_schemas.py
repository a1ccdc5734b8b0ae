"""The bodies of the routes for adapters. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, model_validator

from gateway.admin.schemas import Asked, Line, NumberOrBase, Page, Told
from gateway.registry.records import AliasDetail, AliasMove, Seen, VersionDetail
from gateway.registry.snapshot import Alias, Effect, Version, VersionState


class ImportRequest(Asked):
    """An adapter's folder on the gateway's machine."""

    path: str


class PromoteRequest(Asked):
    """The version that becomes the stable one."""

    version: NumberOrBase


class ShadowRequest(Asked):
    """Which share of the calls is copied, and how many pairs of answers are to be seen.

    What is left out is as configured under `rollout.shadow`.
    """

    share: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    answers: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None


class RolloutRequest(Asked):
    """A candidate and the rising shares of the callers that it gets.

    The first share is set at once; with `shadow`, once copies of calls have shown nothing against
    the candidate. The controller takes the later ones, and promotes where the last is 1; with one
    step alone, the share stays until the next call.
    """

    version: NumberOrBase
    shadow: ShadowRequest | None = None
    steps: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _rising(self) -> RolloutRequest:
        if any(left >= right for left, right in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("steps must rise: callers move to the candidate, never back and forth")
        if self.shadow is not None and self.steps[0] == 1:
            raise ValueError("steps must begin below 1 after a shadow, which no caller has seen")
        return self


class RetireRequest(Asked):
    """Why a version is retired, for its record."""

    reason: Line = ""


class PinRequest(Asked):
    """On how many workers a version is to be, whatever else is called."""

    replicas: Annotated[StrictInt, Field(ge=1, le=1000)] = 1


class VersionOut(Told):
    """A version in short, as registration, promotion and retirement answer."""

    alias: str
    version: int
    state: VersionState
    sha256: str

    @classmethod
    def of(cls, version: Version) -> VersionOut:
        """Tell of a version."""
        return cls(
            alias=version.alias,
            version=version.number,
            state=version.state,
            sha256=version.sha256,
        )


class VersionSummaryOut(VersionOut):
    """A version in short; `pinned` is on how many workers it stays, null where it has no pin.

    `kind` is `merged` for a whole model, which workers are started with.
    """

    pinned: int | None
    kind: Literal["adapter", "merged", "base"]

    @classmethod
    def of(cls, version: Version) -> VersionSummaryOut:
        """Tell of a version."""
        known = VersionOut.of(version).model_dump()
        kind = "base" if version.is_base else "merged" if version.is_merged else "adapter"
        return cls(**known, pinned=version.pinned or None, kind=kind)


class PlacementOut(Told):
    """A version on a worker; `current` is false once the worker has restarted since the check."""

    worker: str
    boot: str
    effect: Effect | None
    routable: bool
    current: bool
    detail: str
    checked_at: float

    @classmethod
    def of(cls, seen: Seen) -> PlacementOut:
        """Tell of a placement."""
        found = seen.placement
        return cls(
            worker=found.worker,
            boot=found.boot,
            effect=found.effect,
            routable=found.routable and seen.current,
            current=seen.current,
            detail=found.detail,
            checked_at=seen.checked_at,
        )


class StateOut(Told):
    """One change of a version's state."""

    state: VersionState
    reason: str
    actor: str
    at: float


class VersionDetailOut(VersionSummaryOut):
    """A version with its record and its workers; its registration counts as a use."""

    base_model: str
    rank: int
    draining: bool
    created_at: float
    used_at: float
    waiting: str = Field(description="why no worker takes it, where that will not pass by itself")
    manifest: dict[str, Any] = Field(description="what the artifact says, without its fingerprint")
    placements: list[PlacementOut]
    events: list[StateOut]

    @classmethod
    def full(cls, detail: VersionDetail) -> VersionDetailOut:
        """Tell all of a version."""
        version = detail.version
        return cls(
            **VersionSummaryOut.of(version).model_dump(),
            base_model=version.base_model,
            rank=version.rank,
            draining=version.draining,
            created_at=detail.created_at,
            used_at=detail.used_at,
            waiting=detail.waiting,
            manifest={k: v for k, v in detail.manifest.items() if k != "fingerprint"},
            placements=[PlacementOut.of(seen) for seen in detail.seen],
            events=[
                StateOut(state=e.state, reason=e.reason, actor=e.actor, at=e.at)
                for e in detail.events
            ],
        )


class AliasOut(Told):
    """Where an alias leads; null where it leads nowhere."""

    alias: str
    stable: int | None
    previous: int | None
    candidate: int | None
    weight: float
    shadow: float = Field(description="share of the calls that is copied to the candidate, unshown")
    created_at: int

    @classmethod
    def of(cls, alias: Alias) -> AliasOut:
        """Tell of an alias."""
        return cls(
            alias=alias.name,
            stable=_number(alias.stable),
            previous=_number(alias.previous),
            candidate=_number(alias.candidate),
            weight=alias.weight,
            shadow=alias.shadow,
            created_at=alias.created,
        )


class MoveOut(Told):
    """One line of an alias's record; `options` moves no version."""

    kind: str
    from_version: int | None
    to_version: int | None
    detail: dict[str, Any]
    actor: str
    at: float

    @classmethod
    def of(cls, move: AliasMove) -> MoveOut:
        """Tell of a move."""
        return cls(
            kind=move.kind,
            from_version=move.from_version,
            to_version=move.to_version,
            detail=dict(move.detail),
            actor=move.actor,
            at=move.at,
        )


class AliasSummaryOut(AliasOut):
    """An alias and its versions in short."""

    versions: list[VersionSummaryOut]

    @classmethod
    def summary(cls, alias: Alias, versions: Iterable[Version]) -> AliasSummaryOut:
        """Tell of an alias and its versions."""
        return cls(
            **AliasOut.of(alias).model_dump(),
            versions=[VersionSummaryOut.of(version) for version in versions],
        )


class AliasDetailOut(AliasOut):
    """An alias, its versions with all that is known of them, and its record, oldest first.

    `base` is the base model that version 0 is for it, and that its versions are compared with.
    """

    base: str
    versions: list[VersionDetailOut]
    events: list[MoveOut]
    options: dict[str, Any] = Field(description="what it brings along, as far as it is set")

    @classmethod
    def full(cls, detail: AliasDetail) -> AliasDetailOut:
        """Tell all of an alias."""
        return cls(
            **AliasOut.of(detail.alias).model_dump(),
            base=detail.base,
            versions=[VersionDetailOut.full(found) for found in detail.versions],
            options=detail.alias.options.given,
            events=[MoveOut.of(line) for line in detail.record],
        )


class AliasList(Page):
    """Aliases that the key sees, by name: an `id` is an alias."""

    data: list[AliasSummaryOut]


def _number(version: Version | None) -> int | None:
    return version.number if version is not None else None
