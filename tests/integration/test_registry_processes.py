"""Several processes at once: migrate, prepare, register, take the lease."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import migrations
from gateway.registry.db import make_engine
from gateway.registry.service import Registry
from tests.unit.gateway.registry.adapter_files import BASE, left_in, write_adapter
from tests.unit.gateway.registry.stores import KINDS, empty_database

_PROGRAM = """
import json, sys
from pathlib import Path
from deploy.migrations import upgrade
from gateway.registry.db import make_engine
from gateway.registry.service import Registry

url, storage, base, me, *sources = sys.argv[1:]
sys.stdin.readline()
upgrade(url)
registry = Registry(make_engine(url), Path(storage), base_model=base)
registry.prepare()
added = [registry.add("default", "support", Path(source), me) for source in sources]
print(json.dumps({
    "numbers": [one.version.number for one in added],
    "created": sum(one.created for one in added),
    "secret": registry.secret().hex(),
    "lease": registry.acquire_lease("controller", me, 60),
}))
"""

PROCESSES = 4


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


def test_many_gateways_start_on_an_empty_database(url: str, tmp_path: Path) -> None:
    shared = write_adapter(tmp_path / "shared", fill=200)
    storage = tmp_path / "storage"
    running = []
    for me in range(PROCESSES):
        own = [str(write_adapter(tmp_path / f"{me}-{n}", fill=10 * me + n)) for n in range(3)]
        command = [sys.executable, "-c", _PROGRAM, url, str(storage), BASE, str(me)]
        running.append(
            subprocess.Popen(
                [*command, *own, str(shared)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = []
    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        told.append(json.loads(out))

    assert sum(one["created"] for one in told) == 3 * PROCESSES + 1
    numbers = {number for one in told for number in one["numbers"]}
    assert numbers == set(range(1, 3 * PROCESSES + 2))
    assert len({one["numbers"][-1] for one in told}) == 1, "the shared adapter is one version"
    assert len({one["secret"] for one in told}) == 1
    assert sum(one["lease"] for one in told) == 1

    registry = Registry(make_engine(url), storage, base_model=BASE)
    snapshot = registry.snapshot()
    assert snapshot.revision == 1 + 3 * PROCESSES + 1
    assert len(snapshot.versions) == 1 + 3 * PROCESSES + 1
    assert not any(name.startswith(".incoming") for name in left_in(storage))
    registry.close()
    migrations.upgrade(url)
