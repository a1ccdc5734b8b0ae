"""Takes a worker's URL apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens: `authority` is for the host header, `prefix` goes before paths."""

    host: str
    port: int
    authority: str
    tls: bool
    prefix: str


@lru_cache(maxsize=1024)
def address_of(url: str) -> Address:
    """Give the parts of a URL; taken apart once."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    host = parts.hostname or ""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Address(host, port, authority, tls, parts.path.rstrip("/"))
