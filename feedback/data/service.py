"""Imports, golden sets and data sets: every operation is one transaction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, RowMapping

from feedback import repository as captures
from feedback.data import repository
from feedback.data.curation import PERMUTATIONS, SHINGLE, THRESHOLD, VERSION, Curated, curate
from feedback.data.material import Candidate, Material, from_review, from_ticket
from feedback.data.rows import BadRow, GivenRow, normal, row_digest
from feedback.db import reading, server_time, writing
from feedback.errors import Invalid, NotKnown
from feedback.tables import DATASET_ROWS

EXAMPLES = 20
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file's rows; `examples` are the first that were left out."""

    read: int
    imported: int
    dropped: Mapping[str, int]
    examples: Sequence[BadRow]


@dataclass(frozen=True, slots=True)
class GoldenItem:
    """A query with its verified answer; the times, in seconds since the epoch, bound its use."""

    id: str
    instruction: str
    input: str
    output: str
    slice: str = ""
    template_id: str | None = None
    valid_from: float | None = None
    valid_until: float | None = None


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """One version of an alias's golden set."""

    digest: str
    items: Sequence[GoldenItem]

    @property
    def slices(self) -> dict[str, int]:
        """How many items each slice has."""
        return dict(sorted(Counter(item.slice for item in self.items).items()))


@dataclass(frozen=True, slots=True)
class Built:
    """A data set's row, and whether it was made now or is one that was there."""

    row: RowMapping
    is_new: bool


@dataclass(slots=True)
class _Sorting:
    """The rows of a file, as they are looked at one after the other."""

    taken: list[GivenRow] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[BadRow] = field(default_factory=list)
    read: int = 0

    def drop(self, bad: BadRow) -> None:
        self.dropped[bad.reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(bad)


class DataStore:
    """What versions are trained and measured on.

    Every call blocks (use threads), and may raise `StoreAway`.
    """

    def __init__(
        self, engine: Engine, *, clock: Callable[[Connection], float] = server_time
    ) -> None:
        self._engine = engine
        self._clock = clock

    def knows(self, tenant: str, alias: str) -> bool:
        """Whether anything was imported for an alias, or it has a golden set."""
        with reading(self._engine) as connection:
            if repository.newest_golden(connection, tenant, alias) is not None:
                return True
            return bool(repository.known_tickets(connection, tenant, alias))

    def reviewed(self, tenant: str, alias: str) -> bool:
        """Whether any answer of an alias was reviewed."""
        with reading(self._engine) as connection:
            return bool(repository.reviewed(connection, tenant, alias))

    def count_new(self, tenant: str, alias: str) -> int:
        """Count what has come since the newest data set was made: imports and useful verdicts."""
        with reading(self._engine) as connection:
            before = repository.datasets(connection, tenant, alias, 1)
            since = before[0]["created_at"] if before else 0.0
            return repository.count_since(connection, tenant, alias, since)

    # -- imports ---------------------------------------------------------------------------------

    def import_rows(
        self,
        tenant: str,
        alias: str,
        rows: Iterable[GivenRow | BadRow],
        source: str,
        *,
        dry_run: bool = False,
    ) -> Imported:
        """Keep a file's rows, each once by its content; a dry run only tells what would be done."""
        with writing(self._engine) as connection:
            known = repository.known_tickets(connection, tenant, alias)
            asked = {normal(item[1]) for item in repository.all_golden(connection, tenant, alias)}
            sorting = _sort(rows, known, asked)
            if not dry_run:
                now = self._clock(connection)
                values = [_ticket(row, tenant, alias, source, now) for row in sorting.taken]
                repository.insert_tickets(connection, values)
        imported, dropped = len(sorting.taken), dict(sorted(sorting.dropped.items()))
        return Imported(sorting.read, imported, dropped, sorting.examples)

    # -- golden sets -----------------------------------------------------------------------------

    def put_golden(self, tenant: str, alias: str, items: Sequence[GoldenItem]) -> GoldenSet:
        """Make a new version of the golden set; the same content again changes nothing.

        Raises `Invalid` where an id or a question occurs twice, or there is no item.
        """
        _check_golden(items)
        parts = [
            row_digest(*(str(value) for value in msgspec.to_builtins(i).values())) for i in items
        ]
        digest = row_digest(tenant, alias, *parts)
        with writing(self._engine) as connection:
            before = repository.newest_golden(connection, tenant, alias)
            if before is None or before["digest"] != digest:
                now = self._clock(connection)
                values = {"tenant": tenant, "alias": alias, "digest": digest, "created_at": now}
                rows = [_golden_row(item, place) for place, item in enumerate(items)]
                repository.insert_golden(connection, values, rows)
        return GoldenSet(digest, tuple(items))

    def golden(self, tenant: str, alias: str, *, all_items: bool = False) -> GoldenSet:
        """Give the golden set in force, by default what is valid now. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            found = repository.newest_golden(connection, tenant, alias)
            if found is None:
                raise NotKnown(f"There is no golden set of {alias!r}.", param="alias")
            now = self._clock(connection)
            items = [
                _golden_item(row)
                for row in repository.golden_items(connection, found["id"])
                if all_items or _is_valid(row, now)
            ]
        return GoldenSet(found["digest"], items)

    # -- data sets -------------------------------------------------------------------------------

    def build(self, tenant: str, alias: str) -> Built:
        """Make the data set of all that was imported and reviewed by now.

        The same content is the same data set. Raises `Invalid` where nothing is left, with what was
        left out and why.
        """
        with reading(self._engine) as connection:
            golden = repository.all_golden(connection, tenant, alias)
            tickets = repository.tickets(connection, tenant, alias)
            reviewed = repository.reviewed(connection, tenant, alias)
        material = Material.of(golden, tickets)
        found: list[Candidate | str] = [from_ticket(row) for row in tickets]
        found += [from_review(row, material) for row in reviewed]
        curated = curate(
            [row for row in found if not isinstance(row, str)], [item[:2] for item in golden]
        )
        dropped = Counter(row for row in found if isinstance(row, str))
        dropped.update(curated.dropped)
        if not curated.rows:
            told = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items())) or "nothing"
            raise Invalid(
                f"No row of {alias!r} can be trained on; left out: {told}. Import rows, or review"
                " answers, first.",
                param="alias",
            )
        return self._keep(tenant, alias, curated, dict(sorted(dropped.items())))

    def _keep(self, tenant: str, alias: str, curated: Curated, dropped: dict[str, int]) -> Built:
        digest = _dataset_digest(tenant, alias, curated.rows)
        with writing(self._engine) as connection:
            if (same := repository.get_dataset(connection, tenant, digest)) is not None:
                return Built(same, is_new=False)
            before = repository.datasets(connection, tenant, alias, 1)
            known = repository.row_digests(connection, before[0]["digest"]) if before else set()
            manifest = {
                "rows": len(curated.rows),
                "new_rows": sum(row.digest not in known for row in curated.rows),
                "dropped": dropped,
                "conflicts": list(curated.conflicts)[:100],
                "origins": dict(sorted(Counter(row.origin for row in curated.rows).items())),
                "slices": dict(sorted(Counter(row.slice for row in curated.rows).items())),
                "curation": {
                    "version": VERSION,
                    "threshold": THRESHOLD,
                    "shingle": SHINGLE,
                    "permutations": PERMUTATIONS,
                },
            }
            values = {
                "digest": digest,
                "tenant": tenant,
                "alias": alias,
                "manifest": manifest,
                "created_at": self._clock(connection),
            }
            rows = [_dataset_row(row, digest, place) for place, row in enumerate(curated.rows)]
            repository.insert_dataset(connection, values, rows)
            made = repository.get_dataset(connection, tenant, digest)
        if made is None:
            raise NotKnown
        return Built(made, is_new=True)

    def dataset(self, tenant: str, digest: str) -> RowMapping:
        """Give a data set. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            found = repository.get_dataset(connection, tenant, digest)
        if found is None:
            raise NotKnown(f"There is no data set {digest[:12]}.")
        return found

    def datasets(self, tenant: str, alias: str | None, limit: int = 100) -> Sequence[RowMapping]:
        """Give data sets, the newest first."""
        with reading(self._engine) as connection:
            return repository.datasets(connection, tenant, alias, limit)

    def rows(self, digest: str) -> Iterator[RowMapping]:
        """Give the rows of a data set one after the other, in order."""
        after = -1
        while True:
            with reading(self._engine) as connection:
                page = repository.dataset_rows(connection, digest, after, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1][DATASET_ROWS.c.position.name]

    def lineage(self, tenant: str, response_id: str) -> dict[str, Any]:
        """Tell what became of an answer: flags, reviews, rows of data sets. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            capture = captures.get_capture(connection, tenant, response_id)
            reviews = repository.reviews_of(connection, tenant, response_id)
            rows = repository.rows_from(connection, tenant, response_id)
            feedback = captures.feedback_on(connection, tenant, response_id)
        if capture is None and not (reviews or rows or feedback):
            raise NotKnown(f"There is no answer {response_id[:80]!r}.")
        return {
            "response_id": response_id,
            "alias": capture["alias"] if capture else None,
            "version": capture["version"] if capture else None,
            "feedback": [row["id"] for row in feedback],
            "reviews": [
                {"id": row["id"], "verdict": row["verdict"], "undone": row["undone_at"] is not None}
                for row in reviews
            ],
            "rows": [
                {
                    "dataset": row["dataset_digest"],
                    "position": row["position"],
                    "origin": row["origin"],
                }
                for row in rows
            ],
        }


def _sort(rows: Iterable[GivenRow | BadRow], known: set[str], asked: set[str]) -> _Sorting:
    sorting, seen = _Sorting(), set(known)
    for row in rows:
        sorting.read += 1
        if isinstance(row, BadRow):
            sorting.drop(row)
        elif normal(row.input) in asked:
            message = f"line {row.line}: it asks what a golden item asks, which is never trained on"
            sorting.drop(BadRow(row.line, "golden", message))
        elif row.digest in seen:
            sorting.drop(BadRow(row.line, "duplicate", f"line {row.line}: the same row is there"))
        else:
            seen.add(row.digest)
            sorting.taken.append(row)
    return sorting


def _ticket(row: GivenRow, tenant: str, alias: str, source: str, now: float) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "alias": alias,
        "digest": row.digest,
        "slice": row.slice,
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "source": source,
        "split_key": row.split_key or row.template_id or None,
        "created_at": now,
    }


def _check_golden(items: Sequence[GoldenItem]) -> None:
    if not items:
        raise Invalid("A golden set needs at least one item.")
    seen_ids: set[str] = set()
    questions: dict[tuple[str, str], str] = {}
    for item in items:
        if item.id in seen_ids:
            raise Invalid(f"The id {item.id!r} occurs twice in the golden set.", param="id")
        seen_ids.add(item.id)
        question = normal(item.instruction), normal(item.input)
        if question in questions:
            raise Invalid(
                f"The items {questions[question]!r} and {item.id!r} ask the same question.",
                param="input",
            )
        questions[question] = item.id


def _golden_row(item: GoldenItem, place: int) -> dict[str, Any]:
    values = msgspec.to_builtins(item)
    return {"item_id": values.pop("id"), "position": place, **values}


def _golden_item(row: RowMapping) -> GoldenItem:
    names = [name for name in GoldenItem.__slots__ if name != "id"]
    return GoldenItem(id=row["item_id"], **{name: row[name] for name in names})


def _is_valid(row: RowMapping, now: float) -> bool:
    begun = row["valid_from"] is None or row["valid_from"] <= now
    return begun and (row["valid_until"] is None or now < row["valid_until"])


def _dataset_digest(tenant: str, alias: str, rows: Sequence[Candidate]) -> str:
    digest = hashlib.sha256(row_digest(tenant, alias).encode())
    for row in rows:
        digest.update(row_digest(row.digest, row.origin).encode())
    return digest.hexdigest()


def _dataset_row(row: Candidate, digest: str, place: int) -> dict[str, Any]:
    return {
        "dataset_digest": digest,
        "position": place,
        "row_digest": row.digest,
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "slice": row.slice,
        "origin": row.origin,
        "lineage": dict(row.lineage),
    }
