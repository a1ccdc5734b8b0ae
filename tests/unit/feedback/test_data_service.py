from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine

from feedback.data.rows import GivenRow, Mapped, read_jsonl
from feedback.data.service import DataStore, GoldenItem
from feedback.errors import Invalid, NotKnown
from feedback.opening import scrubbed_captures
from feedback.review import Decision, ReviewDesk
from feedback.scrub import Scrubber
from feedback.store import FeedbackStore

from .conftest import Clock, a_capture, some_feedback

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
    text = '{"instruction": "Answer.", "input": "no answer"}'
    rows = [*given("one", "two", "one", "Golden  question"), *read_jsonl(text, Mapped({}, {}))]
    tried = data.import_rows(T, "support", rows, "file", dry_run=True)
    assert (tried.read, tried.imported) == (5, 2)
    assert tried.dropped == {"duplicate": 1, "golden": 1, "no_output": 1}
    assert [bad.line for bad in tried.examples] == [3, 4, 1]
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
        (golden("a", " A!"), "'g0' and 'g1' ask the same"),
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
    assert data.count_new(T, "support") == 4
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
    assert data.count_new(T, "support") == 0
    with pytest.raises(NotKnown):
        data.lineage("another", answers[0].id)


def asked(number: int) -> dict[str, object]:
    system = {"role": "system", "content": "Answer."}
    return {"messages": [system, {"role": "user", "content": f"question {number}"}]}
