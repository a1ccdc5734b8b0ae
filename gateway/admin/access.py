"""Who may do what on the admin API, and what it needs of the gateway around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from anyio import from_thread
from fastapi import Request
from sqlalchemy import Engine

from feedback.scrub import Scrubber
from gateway.errors import PermissionDenied
from gateway.registry.errors import AliasNotFound
from gateway.registry.names import is_name
from gateway.registry.service import Registry
from gateway.registry.snapshot import Key
from gateway.settings import GatewaySettings
from guardrails.policy_book import PolicyBook

logger = logging.getLogger(__name__)

READERS = ("admin", "reviewer", "trainer")
ADMINS = ("admin",)
REVIEWERS = ("admin", "reviewer")
# Only the trainer's publishing stage registers; what becomes of the version is the gate's matter.
PUBLISHERS = ("admin", "trainer")


class Backstage(Protocol):
    """What the admin API needs, found at `app.state.serving`."""

    @property
    def registry(self) -> Registry:
        """The registry; its calls block, so endpoints are plain functions in threads."""
        ...

    @property
    def database(self) -> Engine:
        """The feedback store's database. Raises `StoreUnavailable` before start."""
        ...

    @property
    def scrubber(self) -> Scrubber:
        """What takes personal data out of texts. Raises `StoreUnavailable` before start."""
        ...

    @property
    def policies(self) -> PolicyBook:
        """The guard policies that hold. Raises `StoreUnavailable` before start."""
        ...

    @property
    def settings(self) -> GatewaySettings:
        """What the gateway was started with."""
        ...

    def authenticate(self, headers: Mapping[str, str]) -> Key:
        """Give the key of a request. Raises `GatewayError`."""
        ...

    async def refresh(self) -> None:
        """Take over a change of the registry now, rather than at the next poll."""
        ...


def backstage(request: Request) -> Backstage:
    """Give the gateway around the admin API."""
    found: Backstage = request.app.state.serving
    return found


def needs(*roles: str) -> Callable[[Request], Coroutine[Any, Any, Key]]:
    """Make a dependency that gives the caller's key. It raises `GatewayError` for other roles."""

    async def caller(request: Request) -> Key:
        key = backstage(request).authenticate(request.headers)
        if key.role not in roles:
            raise PermissionDenied(
                f"A key with the role {key.role!r} may not do this; it takes {' or '.join(roles)}."
            )
        return key

    return caller


def sees(key: Key, alias: str) -> bool:
    """Whether the key covers this alias."""
    return key.aliases is None or alias in key.aliases


def check_sees(key: Key, alias: str) -> None:
    """Refuse an alias that the key does not cover as if there were none.

    Raises `AliasNotFound`, for what cannot be a name at all too: it must not reach the database.
    """
    if not sees(key, alias) or not is_name(alias):
        raise AliasNotFound


def actor_of(key: Key) -> str:
    """Give the name that goes into the append-only record."""
    return f"{key.owner} (key {key.id})"


def publish(behind: Backstage) -> None:
    """Make a change visible on this gateway before the answer says that it was done."""
    try:
        from_thread.run(behind.refresh)
    except Exception as error:
        # The change itself is committed: every gateway's poll takes it over.
        logger.warning("a change of the registry shows late: %s", error)
