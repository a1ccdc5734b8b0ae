"""Erasing people's rows, in small transactions: killed midway, the same again goes on."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, select

from feedback.db import reading, server_time, writing
from feedback.erasure import datasets, golden, removal, tombstones
from feedback.erasure.datasets import Gone, Run, Touched
from feedback.erasure.derived import Derived
from feedback.erasure.subjects import Subjects, erased_tickets, find_answers, find_tickets
from feedback.erasure.tables import ERASURES
from feedback.erasure.tombstones import Whose
from feedback.errors import Invalid
from feedback.paging import unknown

KINDS = (
    "answers",
    "feedback",
    "review_items",
    "reviews",
    "corrections",
    "imported_rows",
    "dataset_rows",
    "golden_items",
    "evaluations",
    "gate_reports",
    "shadow_pairs",
)
"""What is counted; corrections are among the feedback and reviews."""
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Order:
    """Whose rows are erased, and by whom; a dry run only tells what would be.

    `reference` is for people, such as the number of a request, and names nobody.
    """

    tenant: str
    subjects: Subjects
    actor: str = ""
    reference: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, and what had been made of it, by earlier erasures of the same too."""

    id: str
    counts: dict[str, int]
    datasets: Sequence[Touched]
    runs: Sequence[Run]


class Eraser:
    """Erases, and tells what was erased. Blocks: use threads. May raise `StoreAway`."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[Connection], float] = server_time
    ) -> None:
        self._engine = engine
        self._clock = clock

    def erase(self, order: Order) -> Erased:
        """Erase all that the order names. Raises `Invalid` where it names nothing.

        First what comes in late is held off, then answers go some at a time with all that hangs on
        them, then imported rows, then texts in data sets. All is found again until it is gone.
        """
        if not order.subjects:
            raise Invalid("Say whose rows: name users, answers, keys or imported rows.")
        work = _Work(self._engine, self._clock, order)
        with work.tried():
            work.begin()
            work.answers()
            work.tickets()
            touched = work.datasets()
            work.golden()
            work.finish([one.digest for one in touched])
        with reading(self._engine) as connection:
            trained = {one.digest for one in touched if one.rows}
            runs = datasets.runs_on(connection, order.tenant, trained)
        counts = {kind: work.counts[kind] for kind in KINDS}
        return Erased(work.id, counts, touched, runs)

    def record(
        self, tenant: str, limit: int = 100, after: str | None = None
    ) -> list[list[RowMapping]]:
        """Give the lines of the record, by erasure, the newest first, from beyond one of them.

        Raises `Invalid` where there is no such one.
        """
        mine = ERASURES.c.tenant == tenant
        begun = select(ERASURES.c.erasure_id).where(mine, ERASURES.c.stage == "begun")
        with reading(self._engine) as connection:
            if after is not None:
                last = begun.with_only_columns(ERASURES.c.id).where(ERASURES.c.erasure_id == after)
                if (number := connection.scalar(last)) is None:
                    raise unknown(after)
                begun = begun.where(ERASURES.c.id < number)
            ids = list(connection.scalars(begun.order_by(ERASURES.c.id.desc()).limit(limit)))
            query = select(ERASURES).where(mine, ERASURES.c.erasure_id.in_(ids))
            lines = connection.execute(query.order_by(ERASURES.c.id)).mappings().all()
        return [[line for line in lines if line["erasure_id"] == one] for one in ids]


@dataclass(slots=True)
class _Work:
    """One erasure under way; every step is a transaction."""

    engine: Engine
    clock: Callable[[Connection], float]
    order: Order
    id: str = field(default_factory=lambda: f"erasure-{uuid.uuid4().hex[:16]}")
    counts: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    trial: Connection | None = None

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Take all of it back in the end, where it is a dry run: that is one transaction then."""
        if not self.order.dry_run:
            yield
            return
        with writing(self.engine) as connection, connection.begin_nested() as undone:
            self.trial = connection
            yield
            undone.rollback()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        if self.trial is not None:
            yield self.trial
            return
        with reading(self.engine) as connection:
            yield connection

    @contextmanager
    def _step(self) -> Iterator[tuple[Connection, float]]:
        with ExitStack() as stack:
            connection = self.trial or stack.enter_context(writing(self.engine))
            tombstones.lock(connection)
            yield connection, self.clock(connection)

    def _note(
        self, connection: Connection, now: float, stage: str, counts: Counter[str], **told: Any
    ) -> None:
        """Add a line to the record."""
        self.counts += counts
        line = {
            "erasure_id": self.id,
            "tenant": self.order.tenant,
            "stage": stage,
            "actor": self.order.actor,
            "reference": self.order.reference,
            "subjects": {},
            "counts": {name: n for name, n in counts.items() if n},
            "datasets": [],
            "at": now,
        }
        connection.execute(insert(ERASURES).values(**{**line, **told}))

    def begin(self) -> None:
        """Hold off what comes in late, and find what is there."""
        subjects, tenant = self.order.subjects, self.order.tenant
        with self._step() as (connection, now):
            answers = {one: Whose(response_id=one) for one in subjects.responses}
            for kind, whose in (
                ("session", dict.fromkeys(subjects.sessions, Whose())),
                ("key", dict.fromkeys(map(str, subjects.keys), Whose())),
                ("response", answers),
            ):
                tombstones.put(connection, tenant, kind, whose, now)
            counts = Counter[str]()
            if subjects.keys:
                gone = removal.remove_feedback_of_keys(connection, tenant, subjects.keys)
                counts["feedback"] += gone
            self._note(connection, now, "begun", counts, subjects=subjects.as_dict())

    def answers(self) -> None:
        """Erase the answers, each with all that hangs on it."""
        tenant = self.order.tenant
        with self._read() as connection:
            self.found = find_answers(connection, tenant, self.order.subjects)
            derived = Derived.read(connection, tenant) if self.found else Derived({}, {})
        for at in range(0, len(self.found), _AT_ONCE):
            some = self.found[at : at + _AT_ONCE]
            with self._step() as (connection, now):
                counts, rows = removal.remove_answers(connection, tenant, some, derived, now)
                self._note(connection, now, "step", counts)
            self.rows |= rows

    def tickets(self) -> None:
        """Erase the imported rows."""
        tenant, subjects = self.order.tenant, self.order.subjects
        with self._read() as connection:
            found = find_tickets(connection, tenant, subjects)
        left = sorted(found.keys() - self.rows)
        for at in range(0, len(left), _AT_ONCE):
            some = {ticket: Whose(session=found[ticket]) for ticket in left[at : at + _AT_ONCE]}
            with self._step() as (connection, now):
                counts = removal.remove_tickets(connection, tenant, some, now)
                self._note(connection, now, "step", counts)
        with self._read() as connection:
            before = erased_tickets(connection, tenant, subjects, self.found)
        self.rows |= found.keys() | before

    def datasets(self) -> list[Touched]:
        """Take the texts out of data sets; gives those that held any of it."""
        gone = Gone(frozenset(self.found), frozenset(self.rows))
        with self._read() as connection:
            every = datasets.digests(connection, self.order.tenant)
        touched = []
        for digest in every:
            with self._read() as connection:
                found = datasets.find(connection, digest, gone)
            if found is None:
                continue
            touched.append(found)
            if found.places or found.conflicts:
                with self._step() as (connection, now):
                    rows = datasets.blank(connection, found, gone, now)
                    self._note(connection, now, "step", Counter({"dataset_rows": rows}))
        return touched

    def golden(self) -> None:
        """Renew golden sets that have lost items."""
        with self._step() as (connection, now):
            counts = golden.renew(connection, self.order.tenant, now)
            self._note(connection, now, "step", counts)

    def finish(self, digests: Sequence[str]) -> None:
        """Note in the record that all is done."""
        with self._step() as (connection, now):
            self._note(connection, now, "finished", Counter(), datasets=list(digests))
