from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, RowMapping, Table, delete, insert

from feedback.data import service
from feedback.data.golden import GoldenItem
from feedback.data.imports import scrubbed_rows
from feedback.data.readers import read_jsonl
from feedback.data.rows import GivenRow, Mapped
from feedback.data.service import DataStore
from feedback.db import writing
from feedback.errors import Conflicting, FinderAway, Invalid, NotKnown
from feedback.opening import scrubbed_captures
from feedback.review import Decision, ReviewDesk
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore
from feedback.tables import DATASETS, GOLDEN_ITEMS, REVIEWS, TICKETS

from .conftest import Clock, EmailFinder, a_capture, some_feedback

T = "default"


@pytest.fixture
def data(engine: Engine, clock: Clock) -> DataStore:
    return DataStore(engine, clock=clock)


def given(*inputs: str) -> list[GivenRow]:
    return [
        GivenRow(n, "Answer.", text, f"answer to {text}", "s") for n, text in enumerate(inputs, 1)
    ]


def golden(*inputs: str) -> list[GoldenItem]:
    return [GoldenItem(f"g{n}", "Answer.", text, "a", "s") for n, text in enumerate(inputs)]


def test_an_import_keeps_each_row_once_and_says_what_it_left_out(data: DataStore) -> None:
    data.put_golden(T, "support", golden("golden question"))
    file = io.BytesIO(b'{"instruction": "Answer.", "input": "no answer"}')
    rows = [*given("one", "two", "one", "Golden  question!"), *read_jsonl(file, Mapped({}, {}))]
    tried = data.import_rows(T, "support", rows, "file", dry_run=True)
    assert (tried.read, tried.imported) == (5, 2)
    assert tried.dropped == {"duplicate": 1, "golden": 1, "no_output": 1}
    assert [bad.line for bad in tried.examples] == [3, 4, 1]
    assert "on line 1: there is nothing to do" in tried.examples[0].message
    assert data.import_rows(T, "support", rows, "file").imported == 2
    assert data.import_rows(T, "support", rows, "file").dropped["duplicate"] == 3
    assert data.knows(T, "support")
    assert not data.knows("another", "support")


def test_a_data_set_is_known_by_its_content(data: DataStore, clock: Clock) -> None:
    data.import_rows(T, "support", given("one", "two"), "file")
    first = data.build(T, "support")
    assert first.is_new
    assert first.row["manifest"]["rows"] == first.row["manifest"]["new_rows"] == 2
    clock.now += 10
    again = data.build(T, "support")
    assert (again.is_new, again.row["digest"]) == (False, first.row["digest"])
    data.import_rows(T, "support", given("three"), "file")
    grown = data.build(T, "support")
    assert grown.row["digest"] != first.row["digest"]
    assert (grown.row["manifest"]["rows"], grown.row["manifest"]["new_rows"]) == (3, 1)
    assert [row["input"] for row in data.rows(first.row["digest"])] != []
    assert len(list(data.rows(first.row["digest"]))) == 2
    assert [row["digest"] for row in data.datasets(T, "support")] == [
        grown.row["digest"],
        first.row["digest"],
    ]


def test_a_golden_item_that_comes_later_still_keeps_its_row_out(data: DataStore) -> None:
    data.import_rows(T, "support", given("one", "two"), "file")
    data.put_golden(T, "support", golden("ONE"))
    data.put_golden(T, "support", golden("something else"))  # an older version counts too
    built = data.build(T, "support")
    assert [row["input"] for row in data.rows(built.row["digest"])] == ["two"]
    assert built.row["manifest"]["dropped"] == {"golden": 1}
    assert built.row["manifest"]["golden"] == data.golden(T, "support").digest


def test_an_empty_data_set_says_what_was_left_out(data: DataStore) -> None:
    data.import_rows(T, "support", given("one"), "file")
    data.put_golden(T, "support", golden("one"))
    with pytest.raises(Invalid, match="left out: 1 golden"):
        data.build(T, "support")


def test_golden_sets_have_versions_and_dates(data: DataStore, clock: Clock) -> None:
    items = [*golden("a", "b"), GoldenItem("late", "Answer.", "c", "x", valid_from=clock.now + 60)]
    made = data.put_golden(T, "support", items)
    assert data.put_golden(T, "support", items).digest == made.digest
    found = data.golden(T, "support")
    assert (found.digest, [item.id for item in found.items]) == (made.digest, ["g0", "g1"])
    assert len(data.golden(T, "support", all_items=True).items) == 3
    clock.now += 61
    assert len(data.golden(T, "support").items) == 3
    with pytest.raises(NotKnown):
        data.golden("another", "support")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one"),
        ([*golden("a"), *golden("b")], "'g0' occurs twice"),
        (golden("a", " A "), "'g0' and 'g1' ask the same"),
    ],
)
def test_golden_sets_are_checked(data: DataStore, items: list[GoldenItem], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        data.put_golden(T, "support", items)


def test_a_review_becomes_a_row_with_its_lineage(
    data: DataStore, engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber
) -> None:
    answers = [a_capture(n, request=asked(n)) for n in range(1, 6)]
    store.keep(asyncio.run(scrubbed_captures(scrubber, answers)))
    desk = ReviewDesk(engine, clock=clock)
    decisions = (
        Decision("wrong", "It costs 9 euros."),
        Decision("wrong"),
        Decision("correct"),
        Decision("unsafe"),
        Decision("wrong", "It costs 12 euros."),
    )
    for number, decision in enumerate(decisions, 1):
        store.submit(some_feedback(number, number))
        (item,) = desk.queue(T, {"status": "open"})
        desk.decide(T, item.row["id"], "ann", decision)
    data.import_rows(T, "support", given("imported"), "file")
    assert data.count_new(T, "support", 0.0) == 4
    last = desk.queue(T, {"status": "done"})[-1]
    desk.undo(T, last.row["id"], "ann")  # what was taken back does not train

    built = data.build(T, "support")
    rows = {row["input"]: row for row in data.rows(built.row["digest"])}
    assert set(rows) == {"question 1", "question 3", "imported"}
    corrected = rows["question 1"]
    assert (corrected["output"], corrected["origin"]) == ("It costs 9 euros.", "correction")
    assert corrected["lineage"]["response_id"] == answers[0].id
    assert corrected["slice"] == "s"  # as imported rows with the same instruction
    assert rows["question 3"]["origin"] == "accepted"
    assert built.row["manifest"]["dropped"] == {"no_correction": 1, "unsafe": 1}

    told = data.lineage(T, answers[0].id)
    assert told["rows"][0]["dataset"] == built.row["digest"]
    assert told["reviews"][0]["verdict"] == "wrong"
    assert data.count_new(T, "support", built.row["created_at"]) == 0
    with pytest.raises(NotKnown):
        data.lineage("another", answers[0].id)


def asked(number: int) -> dict[str, object]:
    system = {"role": "system", "content": "Answer."}
    return {"messages": [system, {"role": "user", "content": f"question {number}"}]}


Read = Callable[[Table], Sequence[RowMapping]]


def test_imported_rows_are_scrubbed_each_by_itself(
    data: DataStore, scrubber: Scrubber, finder: EmailFinder, rows: Read
) -> None:
    personal = GivenRow(1, "Answer.", "I am ann@here.com", "Dear ann@here.com, order AB-1.", "s")
    file = [personal, GivenRow(2, "Answer.", "plain", "yes", "s", "ann@here.com")]

    def scrub(some: Sequence[GivenRow]) -> Sequence[GivenRow]:
        return asyncio.run(scrubbed_rows(scrubber, T, "support", some))

    assert data.import_rows(T, "support", file, "file", scrub=scrub, dry_run=True).scrubbed == 0
    assert not rows(TICKETS)
    found = data.import_rows(T, "support", file, "file", scrub=scrub)
    assert (found.imported, found.scrubbed) == (2, 1)
    kept = rows(TICKETS)
    assert "ann@here.com" not in str(kept)
    other = kept[0]["input"].removeprefix("I am ")
    assert kept[0]["output"] == f"Dear {other}, order AB-1."
    # Known again by what the file says.
    assert data.import_rows(T, "support", file, "file", scrub=scrub).dropped == {"duplicate": 2}
    finder.error = FinderAway()
    with pytest.raises(FinderAway):
        data.import_rows(T, "support", given("another"), "file", scrub=scrub)
    assert len(rows(TICKETS)) == 2


def test_no_data_set_without_a_golden_set_that_can_be_read(data: DataStore, engine: Engine) -> None:
    data.import_rows(T, "support", given("one", "two"), "file")
    data.put_golden(T, "support", golden("one"))
    with writing(engine) as connection:
        connection.execute(delete(GOLDEN_ITEMS))
    with pytest.raises(Conflicting, match="no data set is made"):
        data.build(T, "support")


def test_a_golden_set_that_comes_meanwhile_counts(
    data: DataStore, monkeypatch: pytest.MonkeyPatch, rows: Read
) -> None:
    data.import_rows(T, "support", given("one", "two", "three"), "file")
    puts = [golden("one")]
    real = service.curate

    def curate(*arguments: Any) -> Any:
        found = real(*arguments)
        if puts:
            data.put_golden(T, "support", puts.pop())
        return found

    monkeypatch.setattr(service, "curate", curate)
    built = data.build(T, "support")
    assert {row["input"] for row in data.rows(built.row["digest"])} == {"two", "three"}
    assert len(rows(DATASETS)) == 1
    puts += [golden(f"other {number}") for number in range(9)]
    with pytest.raises(Conflicting, match="changes all the time"):
        data.build(T, "support")


def test_two_reviewers_who_correct_one_answer_differently(
    data: DataStore, engine: Engine, clock: Clock, store: FeedbackStore, scrubber: Scrubber
) -> None:
    answer = a_capture(1, request=asked(1))
    store.keep(asyncio.run(scrubbed_captures(scrubber, [answer])))
    store.submit(some_feedback(1, 1))
    desk = ReviewDesk(engine, clock=clock)
    (item,) = desk.queue(T, {"status": "open"})
    desk.decide(T, item.row["id"], "ann", Decision("wrong", "9 euros"))
    other = {"item_id": item.row["id"], "reviewer": "ben", "created_at": clock.now}
    with writing(engine) as connection:  # as where the item was opened again
        connection.execute(
            insert(REVIEWS).values(tenant=T, verdict="wrong", correction="12 euros", **other)
        )
    data.import_rows(T, "support", given("imported"), "file")
    manifest = data.build(T, "support").row["manifest"]
    assert manifest["dropped"] == {"conflict": 2}
    assert {one["response_id"] for one in manifest["conflicts"][0]["lineage"]} == {answer.id}


def test_the_digest_does_not_follow_the_order_of_import(data: DataStore, clock: Clock) -> None:
    first, second = given("one", "two"), given("two", "one", "three")
    data.import_rows(T, "a", [*first, *second], "file")
    data.import_rows(T, "b", second, "file")
    clock.now += 5
    data.import_rows(T, "b", first, "file")
    digests = [[r["row_digest"] for r in data.rows(data.build(T, x).row["digest"])] for x in "ab"]
    assert digests[0] == digests[1]
