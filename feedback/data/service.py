"""Imports, golden sets and data sets: every operation is one transaction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping

from feedback import repository as captures
from feedback.data import repository
from feedback.data.curation import VERSION, Curated, curate
from feedback.data.golden import GoldenItem, GoldenSet, check_golden, golden_digest, is_valid
from feedback.data.imports import Imported, Scrub, Sorting, ticket
from feedback.data.material import Candidate, Material, from_review, from_ticket, in_force
from feedback.data.rows import BadRow, GivenRow, row_digest
from feedback.data.similar import BANDS, PERMUTATIONS, SHINGLE, THRESHOLD, Texts
from feedback.db import reading, server_time, writing
from feedback.erasure import golden as erased_golden
from feedback.erasure import tombstones
from feedback.errors import Conflicting, Invalid, NotKnown
from feedback.tables import DATASET_ROWS

_PAGE = 500
_SCRUBBED_AT_ONCE = 64
_INSERTED_AT_ONCE = 1000
_ATTEMPTS = 3
_CONFLICTS = 100


@dataclass(frozen=True, slots=True)
class Built:
    """A data set's row, and whether it was made now or is one that was there."""

    row: RowMapping
    is_new: bool


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
            return repository.has_tickets(connection, tenant, alias)

    def reviewed(self, tenant: str, alias: str) -> bool:
        """Whether any answer of an alias was reviewed."""
        with reading(self._engine) as connection:
            return bool(repository.reviewed(connection, tenant, alias))

    def count_new(self, tenant: str, alias: str, since: float) -> int:
        """Count what has come since a time: imports and useful verdicts."""
        with reading(self._engine) as connection:
            return repository.count_since(connection, tenant, alias, since)

    # -- imports ---------------------------------------------------------------------------------

    def import_rows(
        self,
        tenant: str,
        alias: str,
        rows: Iterable[GivenRow | BadRow],
        source: str,
        *,
        scrub: Scrub | None = None,
        dry_run: bool = False,
    ) -> Imported:
        """Keep a file's rows, each once by its content; a dry run only tells what would be done.

        `scrub` takes personal data out of what is kept; while it cannot, nothing is kept.
        """
        with reading(self._engine) as connection:
            known = repository.known_tickets(connection, tenant, alias)
            erased = tombstones.imports(connection, tenant, alias)
            golden = _golden_inputs(connection, tenant, alias)
        # No transaction is open meanwhile: a long file would keep others from writing.
        texts = Texts()
        for asked in golden:
            texts.add(asked)
        sorting = Sorting.of(rows, known, texts, erased)
        if dry_run:
            return sorting.told(len(sorting.taken))
        clean = list(sorting.taken)
        if scrub is not None:
            parts = range(0, len(clean), _SCRUBBED_AT_ONCE)
            clean = [row for at in parts for row in scrub(clean[at : at + _SCRUBBED_AT_ONCE])]
        with writing(self._engine) as connection:
            now = self._clock(connection)
            tombstones.share(connection)
            every = [
                ticket(raw.digest, row, tenant, alias, source, now)
                for raw, row in zip(sorting.taken, clean, strict=True)
            ]
            tickets = _without_erased(connection, tenant, alias, every)
            imported = sum(
                repository.insert_tickets(connection, tickets[at : at + _INSERTED_AT_ONCE])
                for at in range(0, len(tickets), _INSERTED_AT_ONCE)
            )
        changed = sum(
            raw.digest != row.digest for raw, row in zip(sorting.taken, clean, strict=True)
        )
        return sorting.told(imported, changed, len(every) - len(tickets))

    # -- golden sets -----------------------------------------------------------------------------

    def put_golden(self, tenant: str, alias: str, items: Sequence[GoldenItem]) -> GoldenSet:
        """Make a new version of the golden set; the same content again changes nothing.

        Raises `Invalid` where an id or a question occurs twice, an item was erased, or there is no
        item.
        """
        check_golden(items)
        digest = golden_digest(tenant, alias, items)
        with writing(self._engine) as connection:
            tombstones.share(connection)
            if (gone := erased_golden.erased_among(connection, tenant, alias, items)) is not None:
                raise Invalid(f"The item {gone!r} was erased: leave it out.", param="id")
            before = repository.newest_golden(connection, tenant, alias)
            if before is None or before["digest"] != digest:
                now = self._clock(connection)
                values = {"tenant": tenant, "alias": alias, "digest": digest, "created_at": now}
                rows = [item.values(place) for place, item in enumerate(items)]
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
                GoldenItem.of(row)
                for row in repository.golden_items(connection, found["id"])
                if row["erased_at"] is None and (all_items or is_valid(row, now))
            ]
        return GoldenSet(found["digest"], items)

    # -- data sets -------------------------------------------------------------------------------

    def build(self, tenant: str, alias: str) -> Built:
        """Make the data set of all that was imported and reviewed by now.

        The same content is the same data set. Raises `Invalid` where nothing is left, with what was
        left out and why, and `Conflicting` where there is a golden set that cannot be read.
        """
        for _ in range(_ATTEMPTS):
            with reading(self._engine) as connection:
                golden = _golden_of(connection, tenant, alias)
                tickets = repository.tickets(connection, tenant, alias)
                reviewed = repository.reviewed(connection, tenant, alias)
            material = Material.of(golden.items, tickets)
            found: list[Candidate | str] = [from_ticket(row) for row in tickets]
            found += [from_review(row, material) for row in in_force(reviewed)]
            curated = _curated(alias, found, golden)
            with writing(self._engine) as connection:
                tombstones.share(connection)
                # One that was put meanwhile has items that these rows were not compared with.
                is_same = _newest_id(connection, tenant, alias) == golden.set_id
                if is_same and not _any_erased(connection, tenant, curated):
                    return self._keep(connection, tenant, alias, curated, golden.digest)
        raise Conflicting(
            "The golden set, or what is erased, changes all the time: try again.", param="alias"
        )

    def _keep(
        self,
        connection: Connection,
        tenant: str,
        alias: str,
        curated: Curated,
        golden_digest: str | None,
    ) -> Built:
        digest = _dataset_digest(tenant, alias, curated.rows)
        while (same := repository.get_dataset(connection, tenant, digest)) is not None:
            if not same["manifest"].get("erased"):
                return Built(same, is_new=False)
            # The texts came once more, from others: the same rows, but not that data set.
            digest = row_digest(digest)
        before = repository.datasets(connection, tenant, alias, 1)
        known = repository.row_digests(connection, before[0]["digest"]) if before else set()
        values = {
            "digest": digest,
            "tenant": tenant,
            "alias": alias,
            "manifest": _manifest(curated, known, golden_digest),
            "created_at": self._clock(connection),
        }
        rows = [_dataset_row(row, digest, place) for place, row in enumerate(curated.rows)]
        is_new = repository.insert_dataset(connection, values, rows)
        made = repository.get_dataset(connection, tenant, digest)
        if made is None:
            raise NotKnown
        return Built(made, is_new=is_new)

    def dataset(self, tenant: str, digest: str) -> RowMapping:
        """Give a data set. Raises `NotKnown`."""
        with reading(self._engine) as connection:
            found = repository.get_dataset(connection, tenant, digest)
        if found is None:
            raise NotKnown(f"There is no data set {digest[:12]}.")
        return found

    def datasets(
        self,
        tenant: str,
        alias: str | None,
        limit: int = 100,
        *,
        aliases: Collection[str] | None = None,
        after: str | None = None,
    ) -> Sequence[RowMapping]:
        """Give data sets, the newest first, as `Jobs.find` gives jobs."""
        with reading(self._engine) as connection:
            return repository.datasets(
                connection, tenant, alias, limit, aliases=aliases, after=after
            )

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
        alias = next((row["alias"] for row in (capture, *reviews, *rows, *feedback) if row), None)
        return {
            "response_id": response_id,
            "alias": alias,
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
                    "erased": row["erased_at"] is not None,
                }
                for row in rows
            ],
        }


@dataclass(frozen=True, slots=True)
class _Golden:
    """All that the golden set of an alias ever held, and the version in force."""

    items: Sequence[tuple[str, str, str]]
    set_id: int | None
    digest: str | None


def _golden_of(connection: Connection, tenant: str, alias: str) -> _Golden:
    """Read the golden set in all its versions. Raises `Conflicting` where one is not whole."""
    if repository.has_empty_golden(connection, tenant, alias):
        raise Conflicting(
            f"A version of the golden set of {alias!r} cannot be read, and without it nobody can"
            " say which rows must not be trained on: no data set is made.",
            param="alias",
        )
    newest = repository.newest_golden(connection, tenant, alias)
    items = repository.all_golden(connection, tenant, alias)
    return _Golden(items, newest["id"] if newest else None, newest["digest"] if newest else None)


def _golden_inputs(connection: Connection, tenant: str, alias: str) -> list[str]:
    return [asked for _, asked, _ in repository.all_golden(connection, tenant, alias)]


def _newest_id(connection: Connection, tenant: str, alias: str) -> int | None:
    newest = repository.newest_golden(connection, tenant, alias)
    return newest["id"] if newest else None


def _without_erased(
    connection: Connection, tenant: str, alias: str, tickets: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Give the rows that may be imported: of a conversation that was erased, none ever."""
    sessions = {row["split_key"] for row in tickets} - {None}
    people = tombstones.known(connection, tenant, "session", sessions)
    rows = tombstones.imports(connection, tenant, alias)
    return [row for row in tickets if row["split_key"] not in people and row["digest"] not in rows]


def _any_erased(connection: Connection, tenant: str, curated: Curated) -> bool:
    """Whether any of the rows, or of the conflicts, was erased since it was read."""
    lineages = [row.lineage for row in curated.rows]
    lineages += [one for conflict in curated.conflicts for one in conflict["lineage"]]
    for kind, name in (("response", "response_id"), ("ticket", "ticket_id")):
        values = [str(one[name]) for one in lineages if name in one]
        if tombstones.known(connection, tenant, kind, values):
            return True
    return False


def _curated(alias: str, found: Sequence[Candidate | str], golden: _Golden) -> Curated:
    """Curate what was found. Raises `Invalid` where nothing is left."""
    candidates = [row for row in found if not isinstance(row, str)]
    curated = curate(candidates, [asked for _, asked, _ in golden.items])
    dropped = Counter(row for row in found if isinstance(row, str))
    dropped.update(curated.dropped)
    if not curated.rows:
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items())) or "nothing"
        raise Invalid(
            f"No row of {alias!r} can be trained on; left out: {told}. Import rows, or review"
            " answers, first.",
            param="alias",
        )
    return replace(curated, dropped=dict(sorted(dropped.items())))


def _manifest(curated: Curated, known: Container[str], golden_digest: str | None) -> dict[str, Any]:
    return {
        "rows": len(curated.rows),
        "new_rows": sum(row.digest not in known for row in curated.rows),
        "dropped": dict(curated.dropped),
        "conflicts": list(curated.conflicts)[:_CONFLICTS],
        "origins": dict(sorted(Counter(row.origin for row in curated.rows).items())),
        "slices": dict(sorted(Counter(row.slice for row in curated.rows).items())),
        "golden": golden_digest,
        "curation": {
            "version": VERSION,
            "threshold": THRESHOLD,
            "shingle": SHINGLE,
            "permutations": PERMUTATIONS,
            "bands": BANDS,
        },
    }


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
