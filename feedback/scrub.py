"""The one place where personal data leaves the records, before they are at rest in the clear.

Values become surrogates, not placeholders: a model that is trained on `[NAME]` says `[NAME]`. The
scope of a surrogate is one answer with all that belongs to it, so a question, its answer and later
corrections go together, and two answers cannot be linked by them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from feedback.introductions import introduced, last_names, mentions
from feedback.surrogates import Surrogates

PERSON = "PERSON"
VERSION = "2"
_STRUCTURE = frozenset(
    {"role", "type", "id", "tool_call_id", "finish_reason", "model", "format", "detail"}
)
"""Keys whose values are the protocol's own words."""


class Span(NamedTuple):
    """Personal data in a text, by character offsets."""

    label: str
    start: int
    end: int


class Finder(Protocol):
    """Finds personal data; the real one asks the guard process."""

    @property
    def version(self) -> str:
        """What found it, for the record."""
        ...

    async def find(self, texts: Sequence[str], alias: str) -> list[list[Span]]:
        """Give the spans of each text, less what the alias's policy exempts.

        Raises `FinderAway` when no answer can be had.
        """
        ...


class Record(NamedTuple):
    """A JSON value that belongs to one answer.

    What stands in `seen`, which was scrubbed before, is a surrogate already and stays as it is.
    """

    tenant: str
    response_id: str
    alias: str
    value: Any
    seen: Any = None


class Scrubber:
    """Puts surrogates in the place of what a finder, and introductions, give away."""

    def __init__(self, finder: Finder, key: bytes) -> None:
        """`key` has at most 64 bytes and is the same in all gateways."""
        self._finder = finder
        self._key = key
        self._surrogates = Surrogates(key)

    @property
    def version(self) -> str:
        """What scrubbed a record."""
        return f"{VERSION}; {self._finder.version}".rstrip("; ")

    def pseudonym(self, tenant: str, session: str) -> str:
        """Give a name for a session that tells nothing of it, always the same."""
        text = f"{tenant}\0{session}".encode("utf-8", "replace")
        return hashlib.blake2b(text, key=self._key, person=b"session", digest_size=12).hexdigest()

    async def scrub(self, records: Sequence[Record]) -> list[Any]:
        """Give the values of the records, with every text in them scrubbed.

        Raises `FinderAway`.
        """
        texts = [list(dict.fromkeys(_texts(record.value))) for record in records]
        spans: list[list[list[Span]]] = [[] for _ in records]
        for alias in {record.alias for record in records}:
            places = [at for at, record in enumerate(records) if record.alias == alias]
            found = iter(await self._finder.find([t for at in places for t in texts[at]], alias))
            for at in places:
                spans[at] = [next(found) for _ in texts[at]]
        # Long texts take their time, which the event loop does not have.
        return await asyncio.to_thread(self._scrub_all, records, texts, spans)

    def _scrub_all(
        self,
        records: Sequence[Record],
        texts: Sequence[Sequence[str]],
        spans: Sequence[Sequence[Sequence[Span]]],
    ) -> list[Any]:
        return [self._scrub(*each) for each in zip(records, texts, spans, strict=True)]

    def _scrub(self, record: Record, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> Any:
        before = "\n".join(_texts(record.seen))

        def new(text: str, found: Iterable[Span]) -> list[Span]:
            return [span for span in found if not _stands_in(before, text[span.start : span.end])]

        pairs = [(text, new(text, found)) for text, found in zip(texts, spans, strict=True)]
        people = {text: new(text, [Span(PERSON, *at) for at in introduced(text)]) for text in texts}
        names = {
            text[span.start : span.end]
            for text, found in pairs
            for span in (*found, *people[text])
            if span.label == PERSON
        }
        last = {name.split()[-1].casefold() for name in names if len(name.split()) > 1}
        last = last.union(*map(last_names, texts))
        scope = f"{record.tenant}\0{record.response_id}"

        def other(label: str, raw: str) -> str:
            return self._surrogates.of(scope, label, raw, last)

        clean = {}
        for text, found in pairs:
            mentioned = [Span(PERSON, *at) for at in mentions(text, names)]
            clean[text] = _replaced(text, [*found, *people[text], *mentioned], other)
        return _mapped(record.value, clean)


def _stands_in(before: str, raw: str) -> bool:
    """Whether a value stands in a text as a whole: "Al" does not in "Also", nor in "al.bo@x"."""
    whole = rf"(?<![\w.+-]){re.escape(raw)}(?![\w-]|\.\w)"
    return raw in before and re.search(whole, before) is not None


def _replaced(text: str, spans: Iterable[Span], other: Callable[[str, str], str]) -> str:
    """Replace spans; of overlapping ones, patterns go before names and longer before shorter."""
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.label == PERSON, s.start - s.end, s.start)):
        if span.start < span.end and all(
            span.end <= had.start or had.end <= span.start for had in chosen
        ):
            chosen.append(span)
    out, at = [], 0
    for span in sorted(chosen, key=lambda s: s.start):
        out += [text[at : span.start], other(span.label, text[span.start : span.end])]
        at = span.end
    # PostgreSQL takes no NUL in a text.
    return ("".join(out) + text[at:]).replace("\0", "\ufffd")


def _texts(value: Any, key: str = "") -> Iterable[str]:
    if isinstance(value, str):
        if value and key not in _STRUCTURE:
            yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)


def _mapped(value: Any, clean: dict[str, str], key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in _STRUCTURE else clean.get(value, value)
    if isinstance(value, dict):
        return {name: _mapped(item, clean, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, clean, key) for item in value]
    return value
