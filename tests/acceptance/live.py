"""A running gateway as tests see it: an address, keys, and clients made of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai

T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """What `keys.env` tells, and which aliases are there. `base_url` ends in /v1."""

    base_url: str
    api_key: str
    admin_key: str
    reviewer_key: str
    home: Path
    aliases: tuple[str, ...] = ("support",)

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.base_url.removesuffix("/v1")

    @property
    def alias(self) -> str:
        """The alias that most tests call."""
        return self.aliases[0]

    def client(self, **options: Any) -> openai.OpenAI:
        """The official client, without the retries that would hide a failure."""
        given = {"api_key": self.api_key, "max_retries": 0, "timeout": 180.0} | options
        return openai.OpenAI(base_url=self.base_url, **given)

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        """The official async client."""
        given = {"api_key": self.api_key, "max_retries": 0, "timeout": 180.0} | options
        return openai.AsyncOpenAI(base_url=self.base_url, **given)

    def http(self, key: str | None = None) -> httpx.Client:
        """A plain client with the app's key, or another one."""
        return httpx.Client(
            base_url=self.root,
            headers={"authorization": f"Bearer {key or self.api_key}"},
            timeout=180.0,
        )

    def admin(self) -> httpx.Client:
        """A plain client with the admin's key."""
        return self.http(self.admin_key)

    def adapter(self, alias: str) -> Any:
        """What the admin API tells of an alias."""
        with self.admin() as admin:
            answer = admin.get(f"/admin/v1/adapters/{alias}")
            answer.raise_for_status()
            return answer.json()


def wait_for(what: Callable[[], T], seconds: float, pause: float = 0.05) -> T:
    """Call `what` until it gives something true; the last value when time is up."""
    deadline = time.monotonic() + seconds
    while not (value := what()) and time.monotonic() < deadline:
        time.sleep(pause)
    return value
