"""The registry's tables. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from feedback.db import NAMES


class Base(DeclarativeBase):
    """Holds the registry's metadata; every constraint has a name, so migrations can drop it."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads this attribute as it stands)
        float: Double(),
        str: String(),
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class MetaRow(Base):
    """Single values: `revision` counts the changes that gateways must see, `secret` signs ids.

    `catalog` is the revision of the last change of anything but placements.
    """

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class KeyRow(Base):
    """An API key; only its digest is kept. `aliases` null means every alias of the tenant."""

    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "tenant", "idempotency_key", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(index=True)
    owner: Mapped[str]
    role: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str]
    aliases: Mapped[list[str] | None]
    purpose: Mapped[str]
    expires_at: Mapped[float | None]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    token_budget: Mapped[int | None] = mapped_column(BigInteger())
    budget_period: Mapped[str] = mapped_column(server_default="month")
    account: Mapped[int | None] = mapped_column(index=True)
    priority: Mapped[str] = mapped_column(server_default="normal")
    max_parallel: Mapped[int | None]
    idempotency_key: Mapped[str | None]


class VersionRow(Base):
    """An adapter version; all but `state`, `draining_since_revision` and `pinned` never change."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("tenant", "alias", "number"),
        Index(None, "tenant", "alias", "sha256"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    alias: Mapped[str]
    number: Mapped[int]
    sha256: Mapped[str]
    path: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    base_model: Mapped[str]
    rank: Mapped[int]
    state: Mapped[str]
    draining_since_revision: Mapped[int | None]
    created_at: Mapped[float]
    pinned: Mapped[int | None]


class UseRow(Base):
    """When a version was last called; its registration counts as a use.

    No foreign key: a heartbeat must not fail over a version that a restored database lacks.
    """

    __tablename__ = "version_uses"

    version_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    used_at: Mapped[float]


class ReferenceRow(Base):
    """A fingerprint measured on the first effective worker, for a version that brought none."""

    __tablename__ = "version_references"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    fingerprint: Mapped[dict[str, Any]]
    worker: Mapped[str]
    at: Mapped[float]


class AliasRow(Base):
    """A name that apps call, and the versions that it leads to."""

    __tablename__ = "aliases"
    __table_args__ = (UniqueConstraint("tenant", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    stable_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    previous_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    candidate_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    weight: Mapped[float]
    created_at: Mapped[float]
    options: Mapped[dict[str, Any] | None]
    moved_at: Mapped[float | None]
    shadow: Mapped[float | None]


class VersionEvent(Base):
    """A change of a version's state; append-only."""

    __tablename__ = "version_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    tenant: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    actor: Mapped[str]
    at: Mapped[float]


class AliasEvent(Base):
    """A move of an alias (promote, rollback, rollout), or new options of it; append-only."""

    __tablename__ = "alias_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    alias_id: Mapped[int] = mapped_column(ForeignKey("aliases.id"), index=True)
    tenant: Mapped[str]
    kind: Mapped[str]
    from_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    to_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    detail: Mapped[dict[str, Any] | None]
    actor: Mapped[str]
    at: Mapped[float]


class WorkerRow(Base):
    """A worker as configured and as last seen."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    kind: Mapped[str]
    options: Mapped[dict[str, Any] | None]
    boot: Mapped[str]
    healthy: Mapped[bool]
    detail: Mapped[str]
    metrics: Mapped[dict[str, Any] | None]
    seen_at: Mapped[float | None]


class PlacementRow(Base):
    """What a worker was last found to answer with under a version's name."""

    __tablename__ = "placements"

    worker: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    boot: Mapped[str]
    effect: Mapped[str | None]
    detail: Mapped[str]
    checked_at: Mapped[float]


class GatewayRow(Base):
    """A gateway's heartbeat: the revision it routes by, and where it has calls in flight."""

    __tablename__ = "gateways"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    revision: Mapped[int]
    busy: Mapped[list[str]]
    heartbeat_at: Mapped[float]


class LeaseRow(Base):
    """A right that one holder has until it expires."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[float]


META = Base.metadata.tables["meta"]
KEYS = Base.metadata.tables["api_keys"]
VERSIONS = Base.metadata.tables["versions"]
USES = Base.metadata.tables["version_uses"]
REFERENCES = Base.metadata.tables["version_references"]
VERSION_EVENTS = Base.metadata.tables["version_events"]
ALIASES = Base.metadata.tables["aliases"]
ALIAS_EVENTS = Base.metadata.tables["alias_events"]
WORKERS = Base.metadata.tables["workers"]
PLACEMENTS = Base.metadata.tables["placements"]
GATEWAYS = Base.metadata.tables["gateways"]
LEASES = Base.metadata.tables["leases"]
