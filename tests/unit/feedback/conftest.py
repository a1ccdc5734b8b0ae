"""A feedback store over a fresh database of every kind, and records to put into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, RowMapping, Table, select

from feedback.db import make_engine, reading
from feedback.scrub import Scrubber, Span
from feedback.sealing import Seal
from feedback.settings import FeedbackSettings
from feedback.store import FeedbackStore
from feedback.types import Capture, CapturedChoice, Confidence, Feedback, Use
from tests.unit.gateway.registry.stores import KINDS, migrated_database

NOW = 1_800_000_000.0
KEY = bytes(range(32))
EMAIL = re.compile(r"[\w.]+@[\w.]+\.\w+")


class Clock:
    """A clock that a test sets; it also stands for the database's."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self, _connection: Connection) -> float:
        return self.now


class EmailFinder:
    """Finds e-mail addresses; can be away."""

    version = "emails 1"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.bad: str | None = None

    async def find(self, texts: Sequence[str], alias: str) -> list[list[Span]]:
        if self.error is not None:
            raise self.error
        if self.bad is not None and any(self.bad in text for text in texts):
            raise ValueError("this text breaks the model")
        return [
            [Span("EMAIL_ADDRESS", *match.span()) for match in EMAIL.finditer(text)]
            for text in texts
        ]


def a_capture(number: int = 1, **changes: Any) -> Capture:
    """A capture of `support@2` whose mean logprob is minus its number in hundredths."""
    mean = -number / 100
    values: dict[str, Any] = {
        "id": f"chatcmpl-{number:048x}",
        "route": "/v1/chat/completions",
        "tenant": "default",
        "key_id": 7,
        "alias": "support",
        "version": 2,
        "version_id": 3,
        "worker": "w",
        "request": {
            "model": "support",
            "messages": [{"role": "user", "content": "I am Maria Keller, m.k@corp.test"}],
            "user": "m.k@corp.test",
            "temperature": 0.5,
        },
        "choices": [
            CapturedChoice(
                index=0,
                content="Write to m.k@corp.test, Maria.",
                finish_reason="stop",
                confidence=Confidence(mean * 5, mean, mean * 2, mean, 5),
            )
        ],
        "usage": {"total_tokens": 9},
        "started": NOW,
        "first_token": 0.1,
        "duration": 0.4,
        "outcome": "ok",
        "audit": [],
        "request_id": "req_1",
        "session": "alice",
    }
    return Capture(**values | changes)


def a_use(number: int = 1, **changes: Any) -> Use:
    """A call of `support@2` of 10 and 4 tokens of which no answer is kept."""
    values: dict[str, Any] = {
        "id": f"req_{number:032x}",
        "tenant": "default",
        "key_id": 7,
        "alias": "support",
        "version": 2,
        "usage": {"prompt_tokens": 10, "completion_tokens": 4},
        "started": NOW,
    }
    return Use(**values | changes)


def some_feedback(response: int = 1, number: int = 1, **changes: Any) -> Feedback:
    """A thumbs-down."""
    values: dict[str, Any] = {
        "id": f"fb-{number}",
        "tenant": "default",
        "response_id": f"chatcmpl-{response:048x}",
        "key_id": 7,
        "alias": "support",
        "body_sha256": f"{number}",
        "created_at": NOW,
        "rating": "down",
    }
    return Feedback(**values | changes)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "template.db"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, template: Path) -> Iterator[str]:
    with migrated_database(request.param, tmp_path, template) as url:
        yield url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_store(engine: Engine, clock: Clock) -> Callable[..., FeedbackStore]:
    """Makes stores: `make_store(chance=..., review_budget=...)`."""

    def make(chance: Callable[[], float] = lambda: 1.0, **settings: Any) -> FeedbackStore:
        return FeedbackStore(engine, FeedbackSettings(**settings), clock=clock, chance=chance)

    return make


@pytest.fixture
def store(make_store: Callable[..., FeedbackStore]) -> FeedbackStore:
    """A store that chooses nothing for review unasked."""
    return make_store()


@pytest.fixture
def finder() -> EmailFinder:
    return EmailFinder()


@pytest.fixture
def scrubber(finder: EmailFinder) -> Scrubber:
    return Scrubber(finder, KEY)


@pytest.fixture
def seal() -> Seal:
    return Seal(KEY)


@pytest.fixture
def rows(engine: Engine) -> Callable[[Table], Sequence[RowMapping]]:
    """Gives all rows of a table."""

    def read(table: Table) -> Sequence[RowMapping]:
        with reading(engine) as connection:
            return connection.execute(select(table)).mappings().all()

    return read
