"""Which names are allowed: they end up in paths, in worker-side names and in URLs."""

from __future__ import annotations

import re

from gateway.registry.errors import InvalidName

PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME = re.compile(PATTERN)


def is_name(name: str) -> bool:
    """Whether this may be the name of an alias or a tenant."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str = "alias") -> str:
    """Give `name` back where it is allowed. Raises `InvalidName`."""
    if not is_name(name):
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise InvalidName(f"{shown!r} is no {what} name. {InvalidName.__doc__}", param=what)
    return name
