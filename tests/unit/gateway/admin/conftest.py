"""The admin API in a small application, over a real registry."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import Engine

from deploy.migrations import upgrade
from feedback.errors import FeedbackError
from feedback.scrub import Scrubber
from gateway.admin import create_admin_router
from gateway.errors import GatewayError, InvalidRequest, Unauthenticated
from gateway.feedback_api import from_feedback
from gateway.registry.db import make_engine
from gateway.registry.service import Registry
from gateway.registry.snapshot import Key, Snapshot
from gateway.settings import GatewaySettings
from guardrails.policy_book import PolicyBook
from tests.unit.feedback.conftest import EmailFinder
from tests.unit.gateway.registry.adapter_files import BASE


class Behind:
    """What the application's state holds: a snapshot that only `refresh` renews."""

    def __init__(self, registry: Registry, settings: GatewaySettings) -> None:
        self.registry = registry
        self.settings = settings
        self.snapshot: Snapshot = registry.snapshot()
        self.database: Engine = make_engine(settings.database_url)
        self.finder = EmailFinder()
        self.scrubber = Scrubber(self.finder, bytes(32))
        self.policies = PolicyBook(settings.policy_file)

    def authenticate(self, headers: Mapping[str, str]) -> Key:
        secret = headers.get("authorization", "").removeprefix("Bearer ")
        key = self.snapshot.keys.get(hashlib.sha256(secret.encode()).hexdigest())
        if key is None or (key.expires_at is not None and key.expires_at < time.time()):
            raise Unauthenticated
        return key

    async def refresh(self) -> None:
        self.snapshot = await asyncio.to_thread(self.registry.snapshot)


def _answer(error: GatewayError) -> JSONResponse:
    return JSONResponse(error.body, error.status)


async def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    return _answer(error)


async def _of_feedback(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FeedbackError)
    return _answer(from_feedback(error))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _answer(InvalidRequest(first["msg"], param=str(first["loc"][-1])))


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    """The folder that adapters may be imported from."""
    folder = tmp_path / "imports"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path: Path, imports: Path) -> GatewaySettings:
    return GatewaySettings(
        database_url=f"sqlite:///{tmp_path}/adapterloop.db",
        storage=tmp_path / "storage",
        outbox=tmp_path / "outbox",
        guard_socket=tmp_path / "guard.sock",
        import_roots=(imports,),
        base_model=BASE,
    )


@pytest.fixture
def registry(settings: GatewaySettings) -> Iterator[Registry]:
    upgrade(settings.database_url)
    registry = Registry(make_engine(settings.database_url), settings.storage, base_model=BASE)
    registry.prepare()
    yield registry
    registry.close()


@pytest.fixture
def app(registry: Registry, settings: GatewaySettings) -> Iterator[FastAPI]:
    app = FastAPI()
    behind = app.state.serving = Behind(registry, settings)
    app.add_exception_handler(GatewayError, _ours)
    app.add_exception_handler(FeedbackError, _of_feedback)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(create_admin_router(), prefix="/admin/v1")
    yield app
    behind.database.dispose()


class Clients:
    """Clients with keys of their own."""

    def __init__(self, app: FastAPI, registry: Registry) -> None:
        self._app = app
        self._registry = registry
        self._open: list[httpx.AsyncClient] = []

    def bare(self, secret: str | None = None) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app),
            base_url="http://gateway/admin/v1",
            headers={"authorization": f"Bearer {secret}"} if secret else {},
        )
        self._open.append(client)
        return client

    async def __call__(
        self, role: str = "admin", tenant: str = "default", aliases: list[str] | None = None
    ) -> httpx.AsyncClient:
        secret, _ = self._registry.create_key(
            tenant=tenant, owner=f"{role}-owner", role=role, aliases=aliases
        )
        await self._app.state.serving.refresh()
        return self.bare(secret)

    async def aclose(self) -> None:
        for client in self._open:
            await client.aclose()


@pytest.fixture
async def clients(app: FastAPI, registry: Registry) -> AsyncIterator[Clients]:
    clients = Clients(app, registry)
    yield clients
    await clients.aclose()


@pytest.fixture
async def admin(clients: Clients) -> httpx.AsyncClient:
    return await clients()


def upload(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """A folder's files as httpx takes them."""
    return [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
