"""Which names are allowed: they end up in paths, in worker-side names and in URLs."""

from __future__ import annotations

import re

from gateway.registry.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str, what: str = "alias") -> str:
    """Give `name` back where it is allowed. Raises `InvalidName`."""
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise InvalidName(f"{shown!r} is no {what} name. {InvalidName.__doc__}", param=what)
    return name
