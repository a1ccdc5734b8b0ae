"""`adapterloop worker` where the local worker is llama.cpp: the keeper, and what it acts on."""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.compose import LOCAL, gateway_settings
from deploy.config import Config
from deploy.home import Home
from deploy.llamacpp import keeper
from deploy.llamacpp.convert import Base, CannotConvert, convert, why
from deploy.llamacpp.keeper import Facts, Keeper
from deploy.llamacpp.server import HOST, Server, base_gguf
from deploy.ports import Claims
from gateway.controller.hearing import Hearing
from gateway.controller.placement import by_need
from gateway.errors import GatewayError
from gateway.registry.names import model_name
from gateway.registry.receiving import REQUIRED
from gateway.registry.service import Registry
from gateway.registry.snapshot import Snapshot, Version
from gateway.registry.storage import key_of
from gateway.workers.errors import LookupFailed
from gateway.workers.file_source import read_list, write_list

logger = logging.getLogger(__name__)

STEP_S = 1.0


def run(config: Config) -> None:
    """Keep llama-server running until SIGTERM or SIGINT. Raises NoServer, CannotConvert."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    home = Home(config.home)
    home.create()
    home.gguf.mkdir(mode=0o700, exist_ok=True)
    for left in home.gguf.glob(".*"):  # by one that was killed while it converted
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    registry = Registry.from_settings(gateway_settings(config))
    with Claims() as claims:
        kept = Keeper(_Here(config, registry, claims), config.max_cpu_loras)
        try:
            while not stop.wait(STEP_S):
                kept.step()
        finally:
            kept.stop()
            registry.close()


class _Here:
    """This machine: the home's registry, storage, ports and files."""

    def __init__(self, config: Config, registry: Registry, claims: Claims) -> None:
        self._config = config
        self._home = Home(config.home)
        self._gguf = base_gguf(config)
        self._base: Base | None = None
        self._model = model_name(gateway_settings(config).base_model)
        self._registry = registry
        self._hearing = Hearing(registry, time.monotonic)
        self._snapshot: Snapshot | None = None
        self._claims = claims
        self._ports = self._ports_before()

    def _ports_before(self) -> list[int]:
        """The ports of the run before, so that its workers keep their names, or the configured."""
        before: list[int] = []
        with suppress(LookupFailed):
            before = sorted(port for _, port in read_list(self._home.llamacpp_workers))
        wished = [*before, self._config.local_worker.port]
        return [port for port in wished[:2] if self._claims.take(HOST, port)]

    def look(self) -> Facts | None:
        """Read the registry; None while it does not answer."""
        try:
            demand = self._registry.demand()
            beats = self._hearing.beats()
            health = {status.name: status.healthy for status in self._registry.workers()}
            if self._snapshot is None or self._snapshot.revision != self._registry.revision():
                self._snapshot = self._registry.snapshot(self._snapshot)
        except GatewayError as error:
            logger.debug("the registry does not answer: %s", error)
            return None
        now, room = self._snapshot, self._config.max_cpu_loras
        ranked = by_need(now, demand, room, self._config.placement.warm, self._fits)
        return Facts(
            wanted=[v for v in ranked if not v.is_merged and self._fits(v)],
            healthy=health,
            proven=proven(now),
            called={*now.workers, *(call.rpartition(" ")[2] for b in beats for call in b.busy)},
            behind=any(beat.revision < now.catalog for beat in beats),
        )

    def _fits(self, version: Version) -> bool:
        return model_name(version.base_model) == self._model

    def start(self, adapters: Sequence[str]) -> Server:
        """Start a server on a free port. Raises NoServer."""
        port = self._ports.pop(0) if self._ports else self._claims.any(HOST)
        return Server.start(self._config, self._gguf, self._home.gguf, port, adapters)

    def worker(self, server: keeper.Server) -> str:
        """Tell what the registry calls a server."""
        return f"{LOCAL}@{HOST}:{server.port}"

    def announce(self, servers: Sequence[keeper.Server], left_out: Mapping[str, str]) -> None:
        """Write the list that the controller reads."""
        listed = {}
        for server in servers:
            missing = {name: why for name, why in left_out.items() if name not in server.adapters}
            listed[HOST, server.port] = missing
        write_list(self._home.llamacpp_workers, listed)

    def prepare(self, version: Version) -> str | None:
        """Convert an adapter where that is not done yet; why it cannot be, else None."""
        target = self._home.gguf / f"{version.worker_name}.gguf"
        if target.exists():
            return None
        key = key_of(version.sha256)
        try:
            if self._base is None:
                self._base = Base.read(self._gguf)
            with tempfile.TemporaryDirectory(dir=self._home.gguf, prefix=".") as folder:
                for name in REQUIRED:
                    with (Path(folder) / name).open("wb") as stream:
                        stream.writelines(self._registry.storage.read(key, name))
                convert(Path(folder), self._base, target)
        except (CannotConvert, GatewayError) as error:
            return str(error)
        except Exception as error:  # whatever one adapter holds, the others are to be served
            logger.exception("%s cannot be converted", version.worker_name)
            return why(error)
        return None

    def clean(self, server: keeper.Server, kept: Iterable[str]) -> None:
        """Let a port be used again, and delete converted adapters that are not `kept`."""
        self._ports.append(server.port)
        names = {f"{name}.gguf" for name in kept}
        for path in self._home.gguf.glob("*.gguf"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def proven(snapshot: Snapshot) -> dict[str, set[str]]:
    """Give by worker the worker-side names that gateways may call on it."""
    found: dict[str, set[str]] = {}
    for version in snapshot.versions.values():
        for placement in snapshot.placements.get(version.id, ()):
            if placement.routable:
                found.setdefault(placement.worker, set()).add(version.worker_name)
    return found
