"""Which names are allowed: they end up in paths, in worker-side names and in URLs."""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.registry.errors import InvalidName

PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
OUR_NAME = re.compile(rf"{PATTERN}@[0-9]+-[0-9a-f]{{8}}")
"""What versions are called on workers."""
VERSION_NAME = re.compile(rf"{PATTERN}@[1-9][0-9]*(-[0-9a-f]{{8}})?")
"""What clients or workers call a version that is no base."""
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


@lru_cache(maxsize=1024)
def model_name(name: str) -> str:
    """Give the name that a path, a hub name or a hub cache's folder ends in, in lower case."""
    parts = [part for part in re.split(r"[/\\]", name) if part]
    for part in parts:
        if part.startswith("models--"):
            return part.rsplit("--", 1)[-1].lower()
    return parts[-1].lower() if parts else ""
