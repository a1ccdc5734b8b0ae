"""Looks for what would keep this machine from serving."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from deploy.compose import gateway_settings, model_path, storage, workers
from deploy.config import Config, unknown_variables
from deploy.health import readiness
from deploy.home import Home
from deploy.progress import Progress
from deploy.setup import Setup, worker_python
from deploy.supervisor import states
from gateway.errors import GatewayError
from gateway.registry.bases import stranded, told
from gateway.registry.service import Registry

GIB = 1024**3
MEMORY_GIB = 6
DISK_GIB = 8


class Grade(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    grade: Grade
    topic: str
    text: str


def examine(config: Config) -> Iterator[Finding]:
    """Yield what was found, topic by topic."""
    topics: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _machine, _parts, _variables, _home, _storage, _versions, _running,
    )  # fmt: skip
    for topic in topics:
        yield from topic(config)


def _machine(config: Config) -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding(Grade.OK, "python", f"{python} on {platform.system()} {platform.machine()}")
    memory = psutil.virtual_memory().available / GIB
    enough = memory >= MEMORY_GIB or bool(config.workers)
    yield Finding(
        Grade.OK if enough else Grade.WARN,
        "memory",
        f"{memory:.0f} GiB free, the default worker takes about {MEMORY_GIB} GiB",
    )
    local = None if config.workers else config.local_worker.kind
    if local == "vllm" and platform.machine() == "x86_64":
        yield _vector_units()


def _vector_units() -> Finding:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "avx2"
    if "avx2" in flags:
        return Finding(Grade.OK, "processor", f"{os.cpu_count()} cores with AVX2")
    return Finding(
        Grade.FAIL,
        "processor",
        "no AVX2: vLLM's CPU build does not run here; try --worker llamacpp",
    )


def _parts(config: Config) -> Iterator[Finding]:
    if Setup(Progress()).is_done(config):
        yield Finding(Grade.OK, "set-up", "environments and base model are there")
        return
    near = next(p for p in (config.home, *config.home.parents) if p.exists())
    free = shutil.disk_usage(near).free / GIB
    grade = Grade.WARN if free >= DISK_GIB else Grade.FAIL
    text = f"incomplete: `adapterloop setup` makes it ({free:.0f} GiB free, {DISK_GIB} needed)"
    yield Finding(grade, "set-up", text)


def _variables(_config: Config) -> Iterator[Finding]:
    for name in unknown_variables():
        yield Finding(Grade.WARN, "environment", f"{name}: no such setting")


def _home(config: Config) -> Iterator[Finding]:
    home = Home(config.home)
    if not home.root.exists():
        yield Finding(Grade.OK, "home", f"{home.root}: `adapterloop up` makes it")
        return
    for path in (home.root, home.keys):
        if path.exists() and path.stat().st_mode & 0o077:
            yield Finding(Grade.FAIL, "home", f"others may read {path}: chmod go= {path}")
    model = model_path(config)
    if config.model and model is None:
        yield Finding(Grade.WARN, "model", f"{config.model} is no folder: a worker must know it")
    yield Finding(Grade.OK, "home", str(home.root))


def _storage(config: Config) -> Iterator[Finding]:
    place = storage(config)
    yield Finding(Grade.OK, "storage", place)
    python = worker_python(config)
    packages = python.parent.parent.glob("lib/python*/site-packages/obstore")
    local = None if config.workers else config.local_worker.kind
    if place.startswith("s3://") and local == "vllm" and not any(packages):
        text = f"the worker cannot fetch from it: {python} -m pip install obstore"
        yield Finding(Grade.FAIL, "storage", text)


def _versions(config: Config) -> Iterator[Finding]:
    if config.database_url is None and not Home(config.home).database.exists():
        return
    registry = Registry.from_settings(gateway_settings(config))
    try:
        snapshot = registry.snapshot()
        lost = stranded(snapshot, registry.base_models)
    except GatewayError as error:
        yield Finding(Grade.FAIL, "database", error.message)
        return
    finally:
        registry.close()
    for line in told(lost):
        yield Finding(Grade.WARN, "versions", line)
    for worker in snapshot.workers.values():
        for name, reason in worker.left_out:
            text = f"{worker.name} runs without {name}: {reason}"
            yield Finding(Grade.WARN, "versions", text)


def _running(config: Config) -> Iterator[Finding]:
    programs = states(Home(config.home))
    if not programs:
        yield Finding(Grade.OK, "processes", "none: nothing is up in this home")
        return
    for program in programs:
        grade = {"RUNNING": Grade.OK, "STARTING": Grade.WARN}.get(program.state, Grade.FAIL)
        yield Finding(grade, program.name, f"{program.state.lower()}, {program.detail}")
    now = readiness(config.host, config.port)
    yield Finding(Grade.OK if now.ready else Grade.FAIL, "gateway", now.reason)
    addresses = ", ".join(worker.url for worker in workers(config))
    yield Finding(Grade.OK, "workers", addresses)
