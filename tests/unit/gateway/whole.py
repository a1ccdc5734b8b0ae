"""The whole application over a real registry, without workers, guards or a running lifespan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from fastapi import FastAPI

from deploy.migrations import upgrade
from feedback.db import make_engine
from gateway.app import create_app
from gateway.serving.router import Router
from gateway.settings import GatewaySettings
from gateway.workers.probe import WorkerWatch
from guardrails.policy_book import PolicyBook

ROLES = ("app", "reviewer", "trainer", "admin")


class Whole:
    """An application whose keys can be checked; what would need a worker is 503."""

    def __init__(self, folder: Path) -> None:
        settings = GatewaySettings(
            database_url=f"sqlite:///{folder}/adapterloop.db",
            storage=folder / "storage",
            outbox=folder / "outbox",
            guard_socket=folder / "guard.sock",
        )
        upgrade(settings.database_url)
        self.app: FastAPI = create_app(settings)
        serving = self.app.state.serving
        self.registry = serving.registry
        self.registry.prepare()
        self.engine = serving.engine = make_engine(settings.database_url)
        self.secret = self.registry.secret()
        self.desk = SimpleNamespace()
        self._keeper = SimpleNamespace(store_up=True, refresh=self.refresh)
        serving.open(cast("Any", self._keeper))
        nobody = cast("Any", None)  # there are no workers to be asked or loaded
        router = Router(WorkerWatch(nobody), nobody, nobody, settings.queue)
        deps = SimpleNamespace(
            keeper=self._keeper,
            secret=self.secret,
            settings=settings,
            router=router,
            shadows=SimpleNamespace(fates={}),
            policies=PolicyBook(),
        )
        serving.serve(cast("Any", deps))
        serving.record(cast("Any", self.desk))
        self._keeper.snapshot = self.registry.snapshot()

    async def refresh(self) -> None:
        self._keeper.snapshot = self.registry.snapshot()

    async def key(self, role: str = "app", tenant: str = "default", **options: Any) -> str:
        secret, _ = self.registry.create_key(tenant=tenant, owner=role, role=role, **options)
        await self.refresh()
        return str(secret)

    def client(self, secret: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://gateway", headers=headers
        )

    def close(self) -> None:
        self.registry.close()
        self.engine.dispose()
