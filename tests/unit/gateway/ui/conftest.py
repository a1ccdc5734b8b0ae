"""The review pages over a real database, without a gateway around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import insert
from starlette.applications import Starlette

from deploy.migrations import upgrade
from feedback.db import make_engine, writing
from feedback.scrub import Scrubber
from feedback.tables import CAPTURES, FEEDBACK, REVIEW_ITEMS
from gateway.registry.service import Registry
from gateway.serving.state import Serving
from gateway.settings import GatewaySettings
from gateway.ui.site import ui_routes
from tests.unit.feedback.conftest import EmailFinder


class House:
    """An application that has only the pages, with keys and review items."""

    def __init__(self, folder: Path) -> None:
        settings = GatewaySettings(
            database_url=f"sqlite:///{folder}/adapterloop.db",
            storage=folder / "storage",
            outbox=folder / "outbox",
            guard_socket=folder / "guard.sock",
        )
        upgrade(settings.database_url)
        self.registry = Registry.from_settings(settings)
        self.registry.prepare()
        self.engine = make_engine(settings.database_url)
        serving = Serving(settings, self.registry)
        serving.engine = self.engine
        serving.desk = cast("Any", SimpleNamespace(scrubber=Scrubber(EmailFinder(), bytes(32))))
        self._keeper = SimpleNamespace(snapshot=None, store_up=True)
        serving.open(cast("Any", self._keeper))
        serving.serve(cast("Any", SimpleNamespace(secret=self.registry.secret())))
        self.app = Starlette(routes=ui_routes(serving))

    def close(self) -> None:
        self.registry.close()
        self.engine.dispose()

    def refresh(self) -> None:
        self._keeper.snapshot = self.registry.snapshot()

    def key(self, role: str = "reviewer", tenant: str = "default", **options: Any) -> str:
        secret, _ = self.registry.create_key(tenant=tenant, owner="ann", role=role, **options)
        self.refresh()
        return secret

    def item(self, number: int = 1, reason: str = "flagged", **changes: Any) -> int:
        """Put an answer into the queue; gives the item's number. `priority` as well."""
        response_id = f"chatcmpl-{number:048x}"
        item = {
            "tenant": "default",
            "response_id": response_id,
            "alias": changes.get("alias", "support"),
            "version": 2,
            "reason": reason,
            "priority": changes.pop("priority", 1.0),
            "status": "open",
            "created_at": 1.0,
            "inclusion_probability": 1.0,
        }
        values = {
            "id": response_id,
            "tenant": "default",
            "alias": "support",
            "version": 2,
            "version_id": 2,
            "key_id": 1,
            "worker": "w",
            "route": "/v1/chat/completions",
            "messages": [{"role": "user", "content": f"Question {number}?"}],
            "parameters": {},
            "choices": [{"index": 0, "content": f"Answer {number}."}],
            "usage": {},
            "confidence_mean": -0.5,
            "confidence_min": -2.0,
            "outcome": "ok",
            "audit": [],
            "started": 1.8e9,
            "duration": 1.0,
            "reasons": [reason],
            "inclusion_probability": 1.0,
            "keep_until": 5e9,
            "request_id": "r",
            "scrubber": "s",
            **changes,
        }
        with writing(self.engine) as connection:
            connection.execute(insert(CAPTURES).values(**values))
            statement = insert(REVIEW_ITEMS).values(**item).returning(REVIEW_ITEMS.c.id)
            return int(connection.execute(statement).scalar_one())

    def said(self, number: int, **changes: Any) -> None:
        """Let a user say something of an answer."""
        values = {
            "id": f"fb-{number}",
            "tenant": "default",
            "response_id": f"chatcmpl-{number:048x}",
            "key_id": 1,
            "rating": "down",
            "labels": [],
            "body_sha256": "",
            "status": "linked",
            "replied": "linked",
            "created_at": 1.0,
            **changes,
        }
        with writing(self.engine) as connection:
            connection.execute(insert(FEEDBACK).values(**values))


class Visitor:
    """A browser without a window: cookies, and the token of the page that it saw last."""

    def __init__(self, house: House) -> None:
        # What fails in a page is told on a page, as in a real server.
        transport = httpx.ASGITransport(house.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="https://gateway.test")

    async def sign_in(self, key: str) -> httpx.Response:
        return await self.http.post("/ui/sign-in", data={"key": key})

    async def get(self, path: str, status: int = 200) -> str:
        page = await self.http.get(path)
        assert page.status_code == status, page.text
        return page.text

    async def post(self, path: str, **fields: str) -> httpx.Response:
        page = await self.get("/ui/review")
        token = page.split('name="token" value="')[1].split('"')[0]
        return await self.http.post(path, data={"token": token, **fields})


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
async def visit(house: House) -> AsyncIterator[Callable[[], Visitor]]:
    """Makes visitors who have not signed in."""
    several: list[Visitor] = []

    def make() -> Visitor:
        several.append(Visitor(house))
        return several[-1]

    yield make
    for visitor in several:
        await visitor.http.aclose()


@pytest.fixture
async def ann(house: House, visit: Callable[[], Visitor]) -> Visitor:
    """A reviewer who has signed in."""
    visitor = visit()
    assert (await visitor.sign_in(house.key())).status_code == 303
    return visitor
