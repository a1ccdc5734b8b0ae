"""The bodies of the routes for keys. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import Field

from gateway.admin.schemas import MAX_INT, Asked, Line, Page, Told
from gateway.registry.records import KeyInfo
from gateway.registry.snapshot import Key, KeyLimits, Priority

Role = Literal["app", "reviewer", "trainer", "admin"]


class LimitsBody(Asked):
    """What a key may use; null is no limit. A budget is for a calendar day or month in UTC.

    `priority` is whose calls go first while all workers are full; `max_parallel` bounds the calls
    at once in each gateway.
    """

    requests_per_minute: int | None = Field(None, ge=1, le=MAX_INT)
    tokens_per_minute: int | None = Field(None, ge=1, le=MAX_INT)
    token_budget: int | None = Field(None, ge=1, le=2**53)
    budget_period: Literal["day", "month"] = "month"
    priority: Priority = "normal"
    max_parallel: int | None = Field(None, ge=1, le=MAX_INT)

    @property
    def limits(self) -> KeyLimits:
        """The same as a value."""
        return KeyLimits(**{name: getattr(self, name) for name in LimitsBody.model_fields})


class RotateRequest(Asked):
    """For how many seconds the old key stays valid beside the new one."""

    overlap_s: float = Field(3600, ge=0, le=90 * 86_400, allow_inf_nan=False)


class KeyRequest(LimitsBody):
    """A key to make. `aliases` null allows every alias of the tenant."""

    owner: Annotated[Line, Field(min_length=1)]
    role: Role = "app"
    aliases: list[str] | None = Field(None, max_length=1000)
    purpose: Literal["serve", "evaluation"] = "serve"
    expires_at: float | None = Field(None, gt=0, allow_inf_nan=False)


class KeyChange(LimitsBody):
    """What is to change of a key; what is left out stays as it is."""

    owner: Annotated[Line, Field(min_length=1)] = ""
    aliases: list[str] | None = Field(None, max_length=1000)
    expires_at: float | None = Field(None, gt=0, allow_inf_nan=False)


class KeyOut(Told):
    """A key; its `prefix` tells keys apart."""

    id: int
    owner: str
    role: str
    prefix: str
    aliases: list[str] | None
    purpose: str
    expires_at: float | None
    created_at: float
    revoked_at: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    token_budget: int | None
    budget_period: str
    priority: Priority
    max_parallel: int | None
    account: int

    @classmethod
    def of(cls, info: KeyInfo) -> KeyOut:
        """Tell of a key."""
        key = info.key
        return cls(
            **asdict(key.limits),
            account=key.account,
            id=key.id,
            owner=key.owner,
            role=key.role,
            prefix=info.prefix,
            aliases=sorted(key.aliases) if key.aliases is not None else None,
            purpose=key.purpose,
            expires_at=key.expires_at,
            created_at=info.created_at,
            revoked_at=info.revoked_at,
        )


class BudgetOut(Told):
    """The tokens of a budget's running day or month, which began on the day `since` (UTC).

    `used` is what is in the usage: calls under way are not, nor those of the last seconds.
    """

    since: str
    ends_at: float
    used: int
    left: int

    @classmethod
    def of(cls, budget: int, used: int, since: str, ends_at: float) -> BudgetOut:
        """Tell what is left; the last call may have gone past it."""
        return cls(since=since, ends_at=ends_at, used=used, left=max(0, budget - used))


class KeyDetailOut(KeyOut):
    """A key with what is left of its budget; null where it has none."""

    budget: BudgetOut | None


class NewKeyOut(Told):
    """A new key. `key` is the secret, shown this once."""

    id: int
    key: str
    owner: str
    role: str
    aliases: list[str] | None
    purpose: str
    expires_at: float | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    token_budget: int | None
    budget_period: str
    priority: Priority
    max_parallel: int | None
    account: int

    @classmethod
    def of(cls, secret: str, made: Key) -> NewKeyOut:
        """Tell of a key that was just made."""
        return cls(
            **asdict(made.limits),
            id=made.id,
            key=secret,
            owner=made.owner,
            role=made.role,
            aliases=sorted(made.aliases) if made.aliases is not None else None,
            purpose=made.purpose,
            expires_at=made.expires_at,
            account=made.account,
        )


class KeyList(Page):
    """Keys of the tenant, the oldest first, the revoked ones too."""

    data: list[KeyOut]
