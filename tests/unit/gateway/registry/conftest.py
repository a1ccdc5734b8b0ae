"""A registry over a fresh database of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from gateway.registry.db import make_engine
from gateway.registry.service import Registry
from gateway.registry.snapshot import Version, VersionState

from .adapter_files import BASE, write_adapter, write_base
from .stores import KINDS, migrated_database


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self, _connection: Connection) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "template.db"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, template: Path) -> Iterator[str]:
    with migrated_database(request.param, tmp_path, template) as url:
        yield url


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def registry(url: str, storage: Path, tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    """A prepared registry whose base model's files are at hand."""
    registry = Registry(
        make_engine(url),
        storage,
        base_model=BASE,
        base_model_path=write_base(tmp_path / BASE),
        max_lora_rank=16,
        clock=clock,
    )
    registry.prepare()
    yield registry
    registry.close()


class Shelf:
    """Registers adapters with ever other bytes."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self._made = 0

    def add(
        self, alias: str = "support", tenant: str = "default", *, ready: bool = True
    ) -> Version:
        self._made += 1
        source = write_adapter(
            self._folder / str(self._made), manifest={"training": {"run": self._made}}
        )
        version = self._registry.register(tenant, alias, source, "test")
        if not ready:
            return version
        return self._registry.set_state(version.id, VersionState.CANDIDATE, "verified", "test")


@pytest.fixture
def shelf(registry: Registry, tmp_path: Path) -> Shelf:
    return Shelf(registry, tmp_path / "shelf")
