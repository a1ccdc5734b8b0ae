"""A further vLLM beside the one of `adapterloop up`, known to the same registry."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.compose import gateway_settings, model_path
from deploy.config import Config, load
from deploy.setup import worker_python
from deploy.worker import environment
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerOptions, WorkerSpec
from tests.stub.server import free_port

from .live import Live, wait_for

START_S = 300


def config_of(live: Live) -> Config:
    """What the processes of a home go by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERLOOP_HOME", str(live.home))
        return load()


def base_model(live: Live) -> Path:
    """The folder of the model that the home's own worker runs."""
    path = model_path(config_of(live))
    assert path is not None
    return path


@contextmanager
def vllm_beside(
    live: Live, name: str, model: Path, *arguments: str, options: WorkerOptions | None = None
) -> Iterator[str]:
    """Run vLLM with a model, as the worker `name`; its address. It is gone at the end."""
    config, port = config_of(live), free_port()
    spec = WorkerSpec(name, f"http://127.0.0.1:{port}", "vllm", options or WorkerOptions())
    command = [
        *(str(worker_python(config)), "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "8"),
        *("--enforce-eager", "--disable-uvicorn-access-log", *arguments),
    ]
    own = environment(config, {"PATH": "/usr/bin:/bin"}) | {
        "ADAPTERLOOP_HOME": str(live.home),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    log = live.home.parent / f"{name}.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=own)
    registry = Registry.from_settings(gateway_settings(config))
    try:
        up = wait_for(lambda: worker.poll() is not None or _answers(spec.url), START_S, 0.5)
        assert up, f"not up in time:\n{log.read_text()[-4000:]}"
        assert worker.poll() is None, log.read_text()[-4000:]
        registry.upsert_worker(spec)
        yield spec.url
    finally:
        registry.remove_worker(name)
        registry.close()
        worker.terminate()
        try:
            worker.wait(timeout=60)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
