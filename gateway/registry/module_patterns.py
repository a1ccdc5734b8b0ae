"""Patterns of modules' names in an adapter's configuration, which are regular expressions.

PEFT and workers match every module with them, and so does the gateway. One that goes back and forth
over a name without end would hold up all of them, so what a pattern may cost is bounded before it
is matched. Nothing that makes the cost unbounded is taken: a repeated group, a backward reference,
a look around.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from math import comb, prod
from typing import Generic, TypeVar

T = TypeVar("T")

_MAX_LENGTH = 1000
_MAX_NAME = 300
_MAX_WAYS = 10**6
"""For one pattern over one name: some hundredths of a second."""
_MAX_WAYS_TOGETHER = 10**9
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|\(\?|\{\d*,?\d*\}|.", re.DOTALL)
_REPEATS = ("*", "+", "{")
_SHOWN = 80


class BadPattern(ValueError):
    """A pattern that is not taken; the message names it and says why."""


class ModulePatterns(Generic[T]):
    """Values for modules, by patterns of the ends of their names; the first that matches holds."""

    def __init__(self, patterns: Mapping[str, T], modules: Collection[str]) -> None:
        """Take the modules that will be asked for. Raises `BadPattern`."""
        longest = max(map(len, modules), default=0)
        if patterns and longest > _MAX_NAME:
            raise BadPattern(f"a module's name has {longest} characters, which is too long")
        together = 0
        self._rules: list[tuple[re.Pattern[str], T]] = []
        for pattern, value in patterns.items():
            together += _ways(pattern, longest) * len(modules)
            if together > _MAX_WAYS_TOGETHER:
                raise BadPattern("the patterns are too costly together: name modules instead")
            self._rules.append((_compile(pattern), value))

    def value_of(self, module: str) -> T | None:
        """Give a module's value, or None where no pattern matches."""
        return next((value for rule, value in self._rules if rule.match(module)), None)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        re.compile(pattern)
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError):
        raise BadPattern(f"{pattern[:_SHOWN]!r} is no regular expression") from None


def _ways(pattern: str, longest: int) -> int:
    """Bound the ways in which a pattern can be tried on a name of that length.

    Each way is a choice of where every repetition ends, in order, of an alternative in every group,
    and of whether each optional thing is there.
    """
    if len(pattern) > _MAX_LENGTH:
        raise BadPattern(f"{pattern[:_SHOWN]!r}... is too long: {_MAX_LENGTH} characters at most")
    parts = list(_tokens(pattern))
    repetitions, optional = 1, 0  # the first repetition is what may stand before
    for before, part in pairwise(["", *parts]):
        if part in ("(?", "\\1"):
            raise _too_costly(pattern, "it looks around or back")
        if part in _REPEATS and before == ")":
            raise _too_costly(pattern, "it repeats a group")
        repetitions += part in _REPEATS
        optional += part == "?" and before not in (*_REPEATS, "?")
    ways = comb(longest + repetitions, repetitions) * (1 << optional) * _choices(parts)
    if ways > _MAX_WAYS:
        raise _too_costly(pattern, "it can match in too many ways")
    return ways


def _choices(parts: Iterable[str]) -> int:
    """Multiply the numbers of alternatives, of each group and of the whole."""
    choices, alternatives = 1, [1]
    for part in parts:
        if part in ("(", "(?:"):
            alternatives.append(1)
        elif part == ")" and len(alternatives) > 1:
            choices *= alternatives.pop()
        elif part == "|":
            alternatives[-1] += 1
    return choices * prod(alternatives)


def _tokens(pattern: str) -> Iterator[str]:
    """Give what has a meaning of its own, by its kind; a character or a set of them is `.`."""
    for found in _TOKEN.finditer(pattern):
        token = found[0]
        if token in ("(", "(?:", "(?", ")", "|", "*", "+", "?"):
            yield token
        elif token[0] == "{" and len(token) > 1:
            yield "{"
        else:
            yield "\\1" if token[0] == "\\" and token[1:].isdigit() else "."


def _too_costly(pattern: str, why: str) -> BadPattern:
    return BadPattern(f"{pattern[:_SHOWN]!r} is too costly to match: {why}")
