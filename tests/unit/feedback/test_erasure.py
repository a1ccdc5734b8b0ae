"""Erasing a person: all of theirs goes, nothing brings it back, and what learned of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, RowMapping, Table, insert

from feedback.data import service as building
from feedback.data.golden import GoldenItem
from feedback.data.rows import GivenRow
from feedback.data.service import DataStore
from feedback.db import writing
from feedback.erasure.service import Erased, Eraser, Order
from feedback.erasure.subjects import Subjects
from feedback.erasure.tables import ERASURES, TOMBSTONES
from feedback.errors import Conflicting, Invalid, NotKnown
from feedback.jobs import Jobs
from feedback.opening import pair_values, scrubbed_captures
from feedback.reports import Reports
from feedback.review import Decision, ReviewDesk
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore
from feedback.tables import (
    CAPTURES,
    DATASET_ROWS,
    EVALUATIONS,
    FEEDBACK,
    GATE_REPORTS,
    GOLDEN_ITEMS,
    GOLDEN_SETS,
    REVIEW_ITEMS,
    REVIEWS,
    SHADOW_PAIRS,
    TICKETS,
    USAGE,
    FeedbackBase,
)
from feedback.types import Answer, ShadowPair

from .conftest import NOW, Clock, a_capture, some_feedback

T = "default"
SECRET = "the boat called Esmeralda"
"""What only alice says, in words that no guard takes for personal data."""
Rows = Callable[[Table], Sequence[RowMapping]]


class Place:
    """A store with what alice and bob have said, and what was made of it."""

    def __init__(
        self, engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber
    ) -> None:
        self.engine, self.clock, self.store, self.scrubber = engine, clock, store, scrubber
        self.data = DataStore(engine, clock=clock)
        self.desk = ReviewDesk(engine, clock=clock)
        self.reports = Reports(engine, clock=clock)
        self.jobs = Jobs(engine, clock=clock)
        self.alice = scrubber.pseudonym(T, "alice")

    def answered(self, number: int, user: str = "alice", **changes: Any) -> None:
        """An answer to someone, as it is shipped."""
        words = SECRET if user == "alice" else "the weather"
        messages = [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": f"question {number} on {words}"},
        ]
        changes = {"session": user, "request": {"messages": messages}, **changes}
        capture = a_capture(number, **changes)
        self.store.keep(asyncio.run(scrubbed_captures(self.scrubber, [capture])))

    def corrected(self, number: int, said: str) -> None:
        """A flag on an answer, and a reviewer's correction."""
        self.store.submit(some_feedback(number, number, comment=said))
        (item,) = self.desk.queue(T, {"status": "open"})
        self.desk.decide(T, item.row["id"], "ann", Decision("wrong", said))

    def erase(self, dry_run: bool = False, **named: Any) -> Erased:
        """Erase alice, or what is named."""
        chosen = {name: frozenset(values) for name, values in named.items()}
        subjects = Subjects(**(chosen or {"sessions": frozenset({self.alice})}))
        eraser = Eraser(self.engine, clock=self.clock)
        return eraser.erase(Order(T, subjects, "dpo (key 1)", "REQ-7", dry_run))


@pytest.fixture
def place(engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber) -> Place:
    """Alice and bob have two answers each; one of hers went into the golden set."""
    place = Place(engine, clock, store, scrubber)
    for number, user in enumerate(("alice", "bob", "alice", "bob"), 1):
        place.answered(number, user)
    place.corrected(1, f"It is {SECRET}.")
    place.corrected(2, "It rains.")
    place.corrected(3, f"It is {SECRET}.")
    place.data.import_rows(T, "support", rows_of(place), "file")
    place.data.put_golden(T, "support", [item("g1"), item("g2", "Who?", "Nobody.")])
    return place


def rows_of(place: Place) -> list[GivenRow]:
    """Rows as they come out of the scrubbing: one of alice's conversation, one of nobody's."""
    return [
        GivenRow(1, "Answer.", f"ticket on {SECRET}", "Yes.", "s", place.alice),
        GivenRow(2, "Answer.", "ticket on prices", "No.", "s"),
    ]


def item(name: str, asked: str = f"QUESTION 3 on {SECRET}", said: str = "") -> GoldenItem:
    """A golden item; by itself, one that was made of alice's correction."""
    return GoldenItem(name, "Answer.", asked, said or f"It is  {SECRET}.", "s")


def texts(rows: Rows) -> str:
    """All that the store holds, as one text."""
    return str([rows(table) for table in FeedbackBase.metadata.sorted_tables])


def test_nothing_of_a_person_is_left_and_all_of_the_others(place: Place, rows: Rows) -> None:
    built = place.data.build(T, "support")
    told = place.erase()
    assert told.counts == {
        "answers": 2,
        "feedback": 2,
        "review_items": 2,
        "reviews": 2,
        "corrections": 2,
        "imported_rows": 1,
        "dataset_rows": 2,
        "golden_items": 1,
        "evaluations": 0,
        "gate_reports": 0,
        "shadow_pairs": 0,
    }
    assert "Esmeralda" not in texts(rows)
    assert [row["session"] for row in rows(CAPTURES)] == [place.scrubber.pseudonym(T, "bob")] * 2
    left = [len(rows(table)) for table in (FEEDBACK, REVIEW_ITEMS, REVIEWS, TICKETS)]
    assert left == [1, 1, 1, 1]
    assert [(one.digest, one.rows) for one in told.datasets] == [(built.row["digest"], 2)]


def test_a_dry_run_tells_the_same_and_changes_nothing(place: Place, rows: Rows) -> None:
    place.data.build(T, "support")
    before = texts(rows)
    tried = place.erase(dry_run=True)
    assert texts(rows) == before
    done = place.erase()
    assert (tried.counts, tried.datasets, tried.runs) == (done.counts, done.datasets, done.runs)


def test_a_row_of_a_data_set_keeps_its_place_without_its_text(place: Place, rows: Rows) -> None:
    digest = place.data.build(T, "support").row["digest"]
    before = list(place.data.rows(digest))
    place.erase()
    after = list(place.data.rows(digest))
    assert [row["row_digest"] for row in after] == [row["row_digest"] for row in before]
    gone = [row for row in after if row["erased_at"] is not None]
    assert {row[name] for row in gone for name in ("instruction", "input", "output")} == {""}
    assert a_capture(1).id in [row["lineage"].get("response_id") for row in gone]
    assert place.data.dataset(T, digest)["manifest"]["erased"] == 2
    # The next one is another, and has never heard of it.
    new = place.data.build(T, "support").row
    assert (new["digest"] == digest, new["manifest"]["rows"]) == (False, len(before) - 2)


def test_it_is_told_what_was_trained_on_them_then_and_later(place: Place) -> None:
    digest = place.data.build(T, "support").row["digest"]
    job = place.jobs.add(T, "refresh", "support", {})
    place.jobs.claim(T, "trainer", ["refresh"])
    place.jobs.record(T, job["id"], "trainer", "snapshot", {"digest": digest})
    place.jobs.record(T, job["id"], "trainer", "register", {"version": 8})
    first, again = place.erase(), place.erase()
    for told in (first, again):
        assert [(run.job_id, run.version, run.state) for run in told.runs] == [
            (job["id"], 8, "running")
        ]
        assert [one.digest for one in told.datasets] == [digest]
    assert not any(again.counts.values())
    others = place.erase(responses={a_capture(4).id})
    assert (others.runs, others.datasets) == ([], [])


def test_what_comes_late_is_not_kept_but_counted(place: Place, rows: Rows) -> None:
    place.store.take([some_feedback(9, 9, comment=SECRET)])  # its answer waits in an outbox
    place.erase()
    used = sum(row["requests"] for row in rows(USAGE))
    late = place.clock.now
    for _ in range(2):  # an outbox may send the same again
        place.answered(1, started=late)
        place.answered(9, started=late)
    place.store.take([some_feedback(1, 11, comment=SECRET), some_feedback(9, 12, comment=SECRET)])
    with pytest.raises(NotKnown, match="erased"):
        place.store.submit(some_feedback(9, 13, comment=SECRET))
    assert place.store.look_up(T, a_capture(9).id).erased
    assert "Esmeralda" not in texts(rows)
    assert sum(row["requests"] for row in rows(USAGE)) == used + 1
    # Who comes back is somebody new.
    place.clock.now += 60
    place.answered(10, started=place.clock.now)
    assert place.store.look_up(T, a_capture(10).id).capture is not None


def test_a_pair_of_a_shadow_goes_too(place: Place, rows: Rows) -> None:
    said = Answer(failed=False, blocked=False, seconds=1.0)
    for number in (1, 2):
        session = ("alice", "bob")[number - 1]
        pair = ShadowPair(
            id=a_capture(number).id,
            tenant=T,
            alias="support",
            stable_id=1,
            candidate_id=2,
            started=NOW,
            stable=said,
            candidate=said,
            session=session,
        )
        place.store.keep_pairs([pair_values(place.scrubber, pair)])
    assert place.erase().counts["shadow_pairs"] == 1
    place.store.keep_pairs([{**rows(SHADOW_PAIRS)[0], "id": "late", "session": place.alice}])
    assert [row["id"] for row in rows(SHADOW_PAIRS)] == [a_capture(2).id]


def test_an_answer_that_has_expired_still_leads_to_its_correction(place: Place, rows: Rows) -> None:
    place.store.expire(NOW + 1e9)
    assert not rows(CAPTURES)
    told = place.erase()
    assert (told.counts["reviews"], told.counts["answers"]) == (2, 0)
    assert "Esmeralda" not in str([rows(table) for table in (REVIEWS, FEEDBACK, TICKETS)])


@pytest.mark.parametrize("step", range(2, 9))
def test_cut_off_at_any_step_the_same_again_ends_it(
    place: Place, rows: Rows, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    digest = place.data.build(T, "support").row["digest"]
    steps = iter(range(1, 100))

    def now(connection: Any) -> float:
        if next(steps) == step:
            raise RuntimeError("killed")
        return place.clock.now

    subjects = Subjects(sessions=frozenset({place.alice}))
    try:
        Eraser(place.engine, clock=now).erase(Order(T, subjects))
    except RuntimeError:
        place.answered(9, started=NOW)  # whatever became of it, what comes late is held off
        assert a_capture(9).id not in {row["id"] for row in rows(CAPTURES)}
        (cut_off,) = Eraser(place.engine).record(T)
        assert cut_off[-1]["stage"] != "finished"
    else:
        assert step > 6
    told = place.erase()
    assert "Esmeralda" not in texts(rows)
    assert [one.digest for one in told.datasets] == [digest]


def test_the_record_names_nobody_and_keeps_no_text(place: Place, rows: Rows) -> None:
    place.erase()
    (lines,) = Eraser(place.engine).record(T)
    assert [line["stage"] for line in lines][:: len(lines) - 1] == ["begun", "finished"]
    assert lines[0]["subjects"] == {"sessions": [place.alice]}
    assert {(line["actor"], line["reference"]) for line in lines} == {("dpo (key 1)", "REQ-7")}
    told = str([rows(ERASURES), rows(TOMBSTONES)])
    assert "Esmeralda" not in told
    assert "'alice'" not in told


def test_the_same_rows_are_not_imported_again(place: Place, rows: Rows) -> None:
    place.erase()
    found = place.data.import_rows(T, "support", rows_of(place), "file")
    assert (found.imported, found.dropped) == (0, {"duplicate": 1, "erased": 1})
    more = [GivenRow(1, "Answer.", "another ticket", "Yes.", "s", place.alice)]
    assert place.data.import_rows(T, "support", more, "file").dropped == {"erased": 1}
    assert len(rows(TICKETS)) == 1


def test_an_imported_row_by_its_number(place: Place, rows: Rows) -> None:
    (first, second) = rows(TICKETS)
    place.data.build(T, "support")
    assert place.erase(tickets={second["id"]}).counts["dataset_rows"] == 1
    assert [row["id"] for row in rows(TICKETS)] == [first["id"]]
    assert len(place.erase(tickets={second["id"]}).datasets) == 1


def test_by_answer_and_by_key(place: Place, rows: Rows) -> None:
    assert place.erase(responses={a_capture(3).id}).counts["answers"] == 1
    place.answered(20, "carol", key_id=8)
    assert place.erase(keys={8}).counts["answers"] == 1
    assert len(rows(CAPTURES)) == 3
    place.answered(21, "carol", key_id=8)
    assert len(rows(CAPTURES)) == 3
    with pytest.raises(Invalid, match="whose rows"):
        Eraser(place.engine).erase(Order(T, Subjects()))


def test_nobody_erases_for_another_tenant(place: Place, rows: Rows) -> None:
    before = texts(rows)
    subjects = Subjects(
        frozenset({place.alice}), frozenset({a_capture(1).id}), frozenset({7}), frozenset({1, 2})
    )
    told = Eraser(place.engine).erase(Order("other", subjects, dry_run=True))
    assert not any(told.counts.values())
    assert texts(rows) == before


def test_a_golden_set_that_lost_an_item_is_a_new_one(place: Place, rows: Rows) -> None:
    old = place.data.golden(T, "support")
    changed = [{"item_id": name, "prompt": SECRET} for name in ("g1", "g2")]
    body = {"golden_digest": old.digest, "answers": [{"item_id": "g1", "said": SECRET}]}
    report = {"golden_digest": old.digest, "changed": {"fixed": changed}, "markdown": SECRET}
    gate = {"alias": "support", "candidate": "support@1", "against": "base", "verdict": "PASS"}
    place.reports.put_evaluation(T, "0" * 64, body)
    place.reports.add_gate(T, {**gate, "report": report, "job_id": None})
    counts = place.erase().counts
    assert (counts["golden_items"], counts["evaluations"], counts["gate_reports"]) == (1, 1, 1)
    new = place.data.golden(T, "support", all_items=True)
    assert ([one.id for one in new.items], new.digest == old.digest) == (["g2"], False)
    assert not rows(EVALUATIONS)
    kept = rows(GATE_REPORTS)[0]["report"]
    assert kept == {"golden_digest": old.digest, "changed": {"fixed": [changed[1]]}}
    for late in (
        lambda: place.reports.put_evaluation(T, "1" * 64, body),
        lambda: place.reports.add_gate(T, {**gate, "report": report, "job_id": None}),
    ):
        with pytest.raises(Conflicting, match="evaluate anew"):
            late()
    with pytest.raises(Invalid, match="'g7' was erased"):
        place.data.put_golden(T, "support", [item("g7")])
    assert len(rows(GOLDEN_SETS)) == 2
    assert len(rows(GOLDEN_ITEMS)) == 3


def test_a_data_set_that_is_being_made_meanwhile_is_made_without_them(
    place: Place, monkeypatch: pytest.MonkeyPatch, rows: Rows
) -> None:
    erasures = [place.erase]
    real = building.curate

    def curate(*arguments: Any) -> Any:
        found = real(*arguments)
        if erasures:
            erasures.pop()()
        return found

    monkeypatch.setattr(building, "curate", curate)
    built = place.data.build(T, "support")
    assert "Esmeralda" not in str(list(place.data.rows(built.row["digest"])))
    assert all(row["erased_at"] is None for row in rows(DATASET_ROWS))


def test_the_same_rows_from_others_are_another_data_set(place: Place) -> None:
    old = place.data.build(T, "support").row["digest"]
    (text,) = [row for row in place.data.rows(old) if SECRET in row["output"]]
    place.erase(responses={a_capture(1).id})
    place.answered(
        30,
        "carol",
        request={
            "messages": [
                {"role": "system", "content": text["instruction"]},
                {"role": "user", "content": text["input"]},
            ]
        },
    )
    place.corrected(30, text["output"])
    new = place.data.build(T, "support").row
    assert new["digest"] != old
    assert [row["row_digest"] for row in place.data.rows(new["digest"])] == [
        row["row_digest"] for row in place.data.rows(old)
    ]
    assert place.data.build(T, "support").row["digest"] == new["digest"]


def test_contradicting_corrections_lose_their_words(place: Place, rows: Rows) -> None:
    review = next(row for row in rows(REVIEWS) if SECRET in row["correction"])
    with writing(place.engine) as connection:
        values = {**review, "id": 99, "reviewer": "ben", "correction": "Something else."}
        connection.execute(insert(REVIEWS).values(**values))
    digest = place.data.build(T, "support").row["digest"]
    assert place.data.dataset(T, digest)["manifest"]["conflicts"]
    told = place.erase(responses={a_capture(1).id})
    assert [(one.digest, one.rows) for one in told.datasets] == [(digest, 0)]
    (conflict,) = place.data.dataset(T, digest)["manifest"]["conflicts"]
    assert (conflict["input"], len(conflict["lineage"])) == ("", 2)
