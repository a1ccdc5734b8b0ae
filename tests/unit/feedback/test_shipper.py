"""Shipping and the desk: exactly once, around what is away, and nothing waits for the broken."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, RowMapping, Table

from feedback import outbox as boxes
from feedback import shipper as shipping
from feedback.desk import Desk, feedback_id
from feedback.erasure.service import Eraser, Order
from feedback.erasure.subjects import Subjects
from feedback.errors import Conflicting, FinderAway, StoreAway
from feedback.outbox import Outbox
from feedback.outbox_file import OutboxFile
from feedback.scrub import Scrubber
from feedback.sealing import Seal
from feedback.shipper import Shipper
from feedback.store import FeedbackStore
from feedback.tables import CAPTURES, FEEDBACK, SHADOW_PAIRS, USAGE
from feedback.types import Answer, Capture, Feedback, ShadowPair, Use

from .conftest import NOW, Clock, EmailFinder, a_capture, a_use, some_feedback

Rows = Callable[[Table], Sequence[RowMapping]]


class Away:
    """Stands in front of a store that can be away, and after whose commit a client can die."""

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self.error: Exception | None = None
        self.after: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if self.error is not None:
                raise self.error
            done = getattr(self._store, name)(*arguments)
            if self.after is not None:
                raise self.after
            return done

        return call


class Place:
    """A gateway's corner: outbox, shipper, desk."""

    def __init__(self, folder: Path, store: FeedbackStore, scrubber: Scrubber, seal: Seal) -> None:
        self.store: Any = Away(store)
        self.outbox = Outbox(folder / "gateway-1.db")
        self.seal = seal
        self.closed = False
        # As in the shipping process: a connection and a descriptor of its own, the lock shared.
        self.shared = OutboxFile(self.outbox.file.path, os.dup(self.outbox.file.lock))
        self.shipper = Shipper(self.shared, self.store, scrubber, seal)
        self.desk = Desk(self.store, self.outbox, scrubber, seal)

    def close(self) -> None:
        """End the outbox; what it holds can be shipped still."""
        if not self.closed:
            self.closed = True
            self.outbox.close()

    def put(self, value: Capture | Use | Feedback) -> None:
        """Let a record wait."""
        sealed = self.seal.seal(msgspec.json.encode(value))
        if isinstance(value, Capture | Use):
            self.outbox.put(value.id, sealed)
        else:
            self.outbox.put_now(value.id, sealed)

    @asynccontextmanager
    async def shipping(self) -> AsyncIterator[None]:
        """Ship while inside; the outbox is emptied at the end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.shipper.run())
            try:
                yield
            finally:
                self.shipper.stop()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 (the state is other threads')
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_EVERY", 0.02), ("_MAX_BACKOFF", 0.05), ("_AWAY", 0.2)):
        monkeypatch.setattr(shipping, name, value)
    monkeypatch.setattr(boxes, "_SYNC_EVERY", 0.02)


@pytest.fixture
def place(tmp_path: Path, store: FeedbackStore, scrubber: Scrubber, seal: Seal) -> Any:
    place = Place(tmp_path / "outbox", store, scrubber, seal)
    yield place
    place.close()
    place.shared.close()


async def test_records_reach_the_store(place: Place, rows: Rows) -> None:
    for number in range(1, 251):
        place.put(a_capture(number))
    place.put(some_feedback(3))
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    assert len(rows(CAPTURES)) == 250
    (said,) = rows(FEEDBACK)
    assert said["status"] == "linked"
    assert place.shipper.shipped == 251


async def test_what_waited_while_its_person_was_erased_is_only_counted(
    place: Place, engine: Engine, scrubber: Scrubber, clock: Clock, rows: Rows
) -> None:
    place.put(a_capture(1))
    place.put(a_capture(2, session="bob"))
    place.put(some_feedback(1))
    subjects = Subjects(sessions=frozenset({scrubber.pseudonym("default", "alice")}))
    await asyncio.to_thread(Eraser(engine, clock=clock).erase, Order("default", subjects))
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    assert [row["id"] for row in rows(CAPTURES)] == [a_capture(2).id]
    assert rows(FEEDBACK) == []
    assert sum(row["requests"] for row in rows(USAGE)) == 2


async def test_what_comes_late_is_shipped_at_the_end(place: Place, rows: Rows) -> None:
    async with place.shipping():
        await asyncio.sleep(0.05)
        for number in range(1, 121):
            place.put(a_capture(number))
        await asyncio.to_thread(place.close)
    assert place.shared.empty()
    assert len(rows(CAPTURES)) == 120


async def test_killed_between_commit_and_ack(place: Place, rows: Rows) -> None:
    place.store.after = StoreAway()
    place.put(a_capture(1))
    place.put(some_feedback(1))
    async with place.shipping():
        await place.until(lambda: place.shipper.away is not None)
        await place.until(lambda: place.outbox.waiting == 2)
        place.store.after = None
        await place.until(lambda: place.outbox.waiting == 0)
    assert len(rows(CAPTURES)) == len(rows(FEEDBACK)) == 1


async def test_uses_are_counted_beside_captures(place: Place, rows: Rows) -> None:
    place.store.after = StoreAway()
    place.put(a_use(1))
    place.put(a_capture(1, usage={"prompt_tokens": 1}))
    async with place.shipping():
        await place.until(lambda: place.shipper.away is not None)
        place.store.after = None
        place.put(a_use(2))
        await place.until(lambda: place.outbox.waiting == 0)
    assert len(rows(CAPTURES)) == 1
    (line,) = rows(USAGE)
    assert (line["requests"], line["prompt_tokens"], line["completion_tokens"]) == (3, 21, 8)


async def test_uses_do_not_wait_for_the_guards(
    place: Place, finder: EmailFinder, rows: Rows
) -> None:
    finder.error = FinderAway()
    place.put(a_use(1))
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    assert [line["requests"] for line in rows(USAGE)] == [1]


@pytest.mark.parametrize("what", ["store", "guards"])
async def test_while_something_is_away_records_wait(
    place: Place, finder: EmailFinder, rows: Rows, what: str
) -> None:
    if what == "store":
        place.store.error = StoreAway()
    else:
        finder.error = FinderAway()
    place.put(a_capture(1))
    async with place.shipping():
        await place.until(lambda: place.shipper.away is not None)
        await place.until(lambda: place.outbox.waiting == 1)
        place.store.error = finder.error = None
        await place.until(lambda: place.outbox.waiting == 0)
        assert place.shipper.away is None
    assert len(rows(CAPTURES)) == 1


async def test_an_end_while_the_store_is_away_keeps_all(place: Place) -> None:
    place.store.error = StoreAway()
    place.put(a_capture(1))
    async with asyncio.timeout(5), place.shipping():
        await asyncio.sleep(0.05)
    await place.until(lambda: place.outbox.waiting == 1)


async def test_what_cannot_be_read_is_set_aside(place: Place, rows: Rows) -> None:
    place.outbox.put("broken", b"no seal of ours, but long enough")
    place.outbox.put("unreadable", place.seal.seal(b'{"id": 3}'))
    place.put(a_capture(1))
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    assert len(rows(CAPTURES)) == 1
    assert place.outbox.aside == 2


async def test_one_that_always_fails_does_not_hold_up_the_others(
    place: Place, finder: EmailFinder, rows: Rows
) -> None:
    finder.bad = "poison"
    place.put(a_capture(1, request={"prompt": "poison"}))
    async with place.shipping():
        for number in range(2, 60):
            place.put(a_capture(number))
            await place.until(lambda: place.outbox.waiting <= 1)
            if place.outbox.aside:
                break
        await place.until(lambda: place.outbox.waiting == 0)
    assert place.outbox.aside == 1
    assert {row["id"][-2:] for row in rows(CAPTURES)} >= {"02", "03"}


async def test_nor_do_many_of_them_in_a_row(place: Place, finder: EmailFinder, rows: Rows) -> None:
    finder.bad = "poison"
    for number in range(1, 9):
        place.put(a_capture(number, request={"prompt": "poison"}))
    place.put(a_capture(9))
    async with place.shipping():
        await place.until(lambda: len(rows(CAPTURES)) == 1)
        for number in range(10, 200):
            if place.outbox.aside == 8:
                break
            place.put(a_capture(number))
            await place.until(lambda: place.outbox.waiting <= 8 - place.outbox.aside)
    assert place.outbox.aside == 8


async def test_what_a_dead_gateway_left_is_shipped(
    place: Place, rows: Rows, tmp_path: Path
) -> None:
    dead = Outbox(tmp_path / "outbox" / "gateway-2.db")
    dead.put_now("fb-9", place.seal.seal(msgspec.json.encode(some_feedback(number=9))))
    dead.put(a_capture(1).id, place.seal.seal(msgspec.json.encode(a_capture(1))))
    dead.close()
    async with place.shipping():
        await place.until(lambda: len(rows(CAPTURES)) == len(rows(FEEDBACK)) == 1)
        await place.until(lambda: not (tmp_path / "outbox" / "gateway-2.db").exists())


async def test_feedback_goes_to_the_store(place: Place, rows: Rows) -> None:
    place.put(a_capture(1))
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    kept = await place.desk.submit(some_feedback(comment="ask m.k@corp.test"))
    assert kept.replied == "linked"
    assert "corp.test" not in rows(FEEDBACK)[0]["comment"]


@pytest.mark.parametrize("what", ["store", "guards"])
async def test_feedback_waits_synced_while_something_is_away(
    place: Place, finder: EmailFinder, rows: Rows, what: str
) -> None:
    place.store.error = StoreAway() if what == "store" else None
    finder.error = FinderAway() if what == "guards" else None
    said = some_feedback(idempotency_key="k")
    for _ in range(2):
        assert (await place.desk.submit(said)).replied == "pending"
    with pytest.raises(Conflicting):
        await place.desk.submit(some_feedback(idempotency_key="k", body_sha256="other"))
    await place.until(lambda: place.outbox.waiting == 1)
    place.store.error = finder.error = None
    async with place.shipping():
        await place.until(lambda: place.outbox.waiting == 0)
    assert len(rows(FEEDBACK)) == 1
    assert (await place.desk.submit(said)).replied == "pending"


async def test_feedback_that_nothing_takes_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    place.store.error = StoreAway()
    monkeypatch.setattr(place.outbox.file, "put_urgent", full)
    with pytest.raises(StoreAway):
        await place.desk.submit(some_feedback())


def test_ids_follow_from_the_idempotency_key() -> None:
    same = {feedback_id(b"k", "default", 1, "a") for _ in range(2)}
    assert len(same) == 1
    others = {feedback_id(b"k", "other", 1, "a"), feedback_id(b"k", "default", 2, "a")}
    assert len(same | others | {feedback_id(b"k", "default", 1, None)}) == 4


async def test_pairs_of_a_shadow_come_with_the_captures_and_count_as_none(
    place: Place, rows: Rows, store: FeedbackStore
) -> None:
    fine = Answer(failed=False, blocked=False, seconds=0.5, mean=-0.25)
    broken = Answer(failed=True, blocked=False, seconds=2.0)
    versions: dict[str, Any] = {"tenant": "default", "alias": "support", "stable_id": 3}
    place.put(a_capture(1))
    for number, candidate, same in ((1, fine, True), (2, broken, None)):
        pair = ShadowPair(
            **versions,
            id=f"chatcmpl-{number:048x}",
            candidate_id=4,
            started=NOW,
            stable=fine,
            candidate=candidate,
            same_text=same,
            session="m.k@corp.test",
        )
        sealed = place.seal.seal(msgspec.json.encode(pair))
        place.outbox.put(f"shadow-{pair.id}", sealed)
    place.store.after = StoreAway()  # killed before it forgets them: shipped again
    async with place.shipping():
        await place.until(lambda: place.shipper.away is not None)
        place.store.after = None
        await place.until(lambda: place.outbox.waiting == 0)
    first, second = sorted(rows(SHADOW_PAIRS), key=lambda row: row["id"])
    assert (first["candidate_seconds"], first["stable_mean"], first["same_text"]) == (
        0.5,
        -0.25,
        True,
    )
    assert (second["candidate_failed"], second["candidate_mean"]) == (True, None)
    assert first["session"] == second["session"] != "m.k@corp.test"
    assert len(rows(CAPTURES)) == 1
    assert [line["requests"] for line in rows(USAGE)] == [1]
    store.expire(NOW + 29 * 86_400)
    assert len(rows(SHADOW_PAIRS)) == 2
    store.expire(NOW + 31 * 86_400)
    assert not rows(SHADOW_PAIRS)
