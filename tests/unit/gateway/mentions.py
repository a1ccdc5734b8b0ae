"""Looks for a word in all that an object holds on to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def mentions(thing: object, word: str) -> list[str]:
    """Where `word` stands in what the project's objects hold, from `thing` on, as paths."""
    return list(_mentions(thing, word, type(thing).__name__, set()))


def _mentions(thing: Any, word: str, path: str, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, str):
        if word in thing:
            yield path
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        for key, value in list(thing.items()):
            yield from _mentions(key, word, f"{path} key", seen)
            yield from _mentions(value, word, f"{path}[{key!r}]", seen)
    elif isinstance(thing, Collection) and not isinstance(thing, bytes):
        for at, item in enumerate(list(thing)):
            yield from _mentions(item, word, f"{path}[{at}]", seen)
    elif type(thing).__module__.startswith("gateway."):
        names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
        for name in names | {*getattr(thing, "__dict__", ())}:
            yield from _mentions(getattr(thing, name, None), word, f"{path}.{name}", seen)
