"""PostgreSQL stopped under load: no answer fails, nothing is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import select

from feedback.db import make_engine, reading
from feedback.tables import CAPTURES, FEEDBACK
from tests.acceptance.live import wait_for
from tests.postgres import INSTALLED, PostgresServer

from .conftest import MakeStack

AWAY = float(os.environ.get("ADAPTERLOOP_TEST_AWAY_S", "10"))
DRAINED = 3 * AWAY
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="needs PostgreSQL's programs"),
    pytest.mark.timeout(300 + 6 * AWAY),
]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer(durable=True).start()
    yield server
    server.remove()


def test_stopped_under_load(make_stack: MakeStack, server: PostgresServer) -> None:
    stack = make_stack(database_url=server.url())
    stack.publish("support", stack.source("support-1", seed=1))
    ids: list[str] = []
    flags: list[str] = []

    def load(http: httpx.Client, seconds: float) -> None:
        end = time.monotonic() + seconds
        body = {"model": "support", "messages": [{"role": "user", "content": "Hello"}]}
        while time.monotonic() < end:
            one = http.post("/v1/chat/completions", json=body)
            assert one.status_code == 200, one.text
            ids.append(one.json()["id"])
            said = http.post("/v1/feedback", json={"response_id": ids[-1], "rating": "down"})
            assert said.status_code == 200, said.text
            flags.append(said.json()["id"])

    with stack.live.http() as http:
        load(http, 1)
        server.stop()
        load(http, AWAY)
        server.start()
        load(http, 1)
        last = f"/v1/feedback/{ids[-1]}"
        assert wait_for(lambda: http.get(last).json().get("status") == "linked", DRAINED)
    stack.gateway.stop()
    engine = make_engine(server.url())
    with reading(engine) as connection:
        kept = set(connection.scalars(select(CAPTURES.c.id)))
        said = list(connection.scalars(select(FEEDBACK.c.id)))
        status = set(connection.scalars(select(FEEDBACK.c.status)))
    engine.dispose()
    assert set(ids) <= kept
    assert sorted(said) == sorted(flags)
    assert status == {"linked"}
