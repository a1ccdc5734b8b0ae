"""What becomes of a file's rows when it is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from feedback.data.rows import REQUIRED, BadRow, GivenRow
from feedback.data.similar import Texts
from feedback.scrub import Record, Scrubber

EXAMPLES = 20

Scrub = Callable[[Sequence[GivenRow]], Sequence[GivenRow]]


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file's rows; `examples` are the first that were left out.

    Of the imported ones, `scrubbed` held personal data, which is other data of its kind now.
    """

    read: int
    imported: int
    dropped: Mapping[str, int]
    examples: Sequence[BadRow]
    scrubbed: int = 0


@dataclass(slots=True)
class Sorting:
    """The rows of a file, as they are looked at one after the other."""

    taken: list[GivenRow] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[BadRow] = field(default_factory=list)
    read: int = 0

    @classmethod
    def of(
        cls,
        rows: Iterable[GivenRow | BadRow],
        known: Iterable[str],
        golden: Texts,
        erased: Container[str] = (),
    ) -> Sorting:
        """Look at rows; `known` are the digests of those imported before, `erased` of others."""
        sorting, before, lines = cls(), set(known), dict[str, int]()
        for row in rows:
            sorting.read += 1
            if isinstance(row, BadRow):
                sorting._drop(row)
            elif golden.has_like(row.input):
                what = "it asks what a golden item asks, which is never trained on: leave it out"
                sorting._drop(BadRow(row.line, "golden", f"line {row.line}: {what}"))
            elif (digest := row.digest) in erased:
                what = "the same row was erased: leave it out"
                sorting._drop(BadRow(row.line, "erased", f"line {row.line}: {what}"))
            elif digest in before or digest in lines:
                where = f"on line {lines[digest]}" if digest in lines else "imported before"
                what = f"the same row is {where}: there is nothing to do"
                sorting._drop(BadRow(row.line, "duplicate", f"line {row.line}: {what}"))
            else:
                lines[digest] = row.line
                sorting.taken.append(row)
        return sorting

    def _drop(self, bad: BadRow) -> None:
        self.dropped[bad.reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(bad)

    def told(self, imported: int, scrubbed: int = 0, erased: int = 0) -> Imported:
        """Tell what became of the rows when so many went in, and so many were of erased people."""
        dropped = Counter(self.dropped)
        if erased:
            dropped["erased"] += erased
        if late := len(self.taken) - imported - erased:
            # Somebody else imported them in the same moment.
            dropped["duplicate"] += late
        return Imported(self.read, imported, dict(sorted(dropped.items())), self.examples, scrubbed)


async def scrubbed_rows(
    scrubber: Scrubber, tenant: str, alias: str, rows: Sequence[GivenRow]
) -> list[GivenRow]:
    """Give rows with surrogates for personal data, each row by itself. Raises `FinderAway`."""
    records = [
        Record(tenant, row.digest, alias, {name: getattr(row, name) for name in REQUIRED})
        for row in rows
    ]
    cleaned = await scrubber.scrub(records)
    return [
        replace(
            row,
            **clean,
            split_key=scrubber.pseudonym(tenant, row.split_key) if row.split_key else "",
        )
        for row, clean in zip(rows, cleaned, strict=True)
    ]


def ticket(
    digest: str, row: GivenRow, tenant: str, alias: str, source: str, now: float
) -> dict[str, Any]:
    """Give a row by the table's columns; `digest` is over what the file said."""
    return {
        "tenant": tenant,
        "alias": alias,
        "digest": digest,
        "slice": row.slice,
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "source": source,
        "split_key": row.split_key or row.template_id or None,
        "created_at": now,
    }
