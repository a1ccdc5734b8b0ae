"""A further vLLM beside the one of `adapterloop up`, and the registry that may be told of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from deploy.compose import gateway_settings
from deploy.config import load
from gateway.registry.service import Registry
from gateway.settings import WorkerSettings
from gateway.workers.discovery import spec_of
from tests.stub.server import free_port

from .conftest import REPOSITORY, adapterloop, environment_of, processes_of
from .live import Live, wait_for

START_S = 600


def base_model(live: Live) -> Path:
    """The folder of the model that the home's own worker runs."""
    return live.home / "models" / "SmolLM2-135M-Instruct"


@contextmanager
def worker_beside(
    live: Live, model: Path, *arguments: str, dtype: str = "float32"
) -> Iterator[str]:
    """Run vLLM with a model and the home's storage; its address. It is gone at the end."""
    port, home = free_port(), model.parent / f"{model.name}-home"
    settings = {
        "ADAPTERLOOP_MODEL": str(model),
        "ADAPTERLOOP_STORAGE": str(live.home / "storage"),
        "ADAPTERLOOP_LOCAL_WORKER__PORT": str(port),
        "ADAPTERLOOP_LOCAL_WORKER__DTYPE": dtype,
        "ADAPTERLOOP_LOCAL_WORKER__KV_CACHE_GIB": "1",
        "ADAPTERLOOP_LOCAL_WORKER__EXTRA_ARGUMENTS": json.dumps(arguments),
    }
    log, url = model.parent / f"{model.name}-worker.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [*adapterloop(), "worker"],
            cwd=REPOSITORY,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment_of(home, free_port(), **settings),
        )
    try:
        up = wait_for(lambda: worker.poll() is not None or is_healthy(url), START_S, 0.5)
        assert up, f"not up in time:\n{log.read_text()[-4000:]}"
        assert worker.poll() is None, log.read_text()[-4000:]
        yield url
    finally:
        worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=30)
        for process in processes_of(home):
            process.kill()
        worker.wait()


@contextmanager
def known_as(live: Live, name: str, url: str, base: str | None = None) -> Iterator[None]:
    """A worker as a configuration has it whose entry says this name, address and base."""
    config = load().model_copy(update={"home": live.home})
    registry = Registry.from_settings(gateway_settings(config))
    try:
        registry.upsert_worker(spec_of(WorkerSettings(name=name, url=url, base=base)))
        yield
    finally:
        registry.remove_worker(name)
        registry.close()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).is_success
    except httpx.HTTPError:
        return False
