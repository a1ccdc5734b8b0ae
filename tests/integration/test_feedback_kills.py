"""SIGKILL at random moments: what was acknowledged is in the store, and in it once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deploy.migrations import upgrade
from feedback.db import make_engine, reading
from feedback.tables import CAPTURES, COUNTED, FEEDBACK, REVIEW_ITEMS, USAGE
from gateway.settings import GatewaySettings
from tests.unit.gateway.registry.stores import KINDS, empty_database

ROUNDS = int(os.environ.get("ADAPTERLOOP_TEST_ROUNDS", "8"))
STILL = 0.05
"""Seconds without a word after which the machine seems to stand still."""


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        upgrade(url)
        yield url


def started(repository: Path, settings: Path, round_: int, records: int) -> subprocess.Popen[str]:
    module = "tests.integration.ship"
    return subprocess.Popen(
        [sys.executable, "-m", module, str(settings), str(round_), str(records)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )


def aged(told: list[tuple[float, str]], killed: float) -> dict[str, float]:
    """Give the seconds that each record had lived when its process was killed.

    Only those in which the process ran, which tells of a record every few milliseconds: while the
    machine stands still for longer, nothing can be committed either.
    """
    ages: dict[str, float] = {}
    age, later = 0.0, killed
    for at, line in reversed(told):
        age += min(max(later - at, 0.0), STILL)
        later = at
        if line.endswith("\n"):
            ages[line.strip()] = age
    return ages


@pytest.mark.timeout(300 + 20 * ROUNDS)
@pytest.mark.parametrize("victim", ["gateway", "shipping"])
def test_every_record_once(
    repository: Path, tmp_path: Path, url: str, guard_socket: Path, victim: str
) -> None:
    """The process that records is killed, or the one that ships and then the one that records.

    What a shipping process of the last round has not shipped, it ships beside the next round.
    """
    rng = random.Random(11)
    settings = tmp_path / "settings.json"
    settings.write_text(
        GatewaySettings(
            database_url=url,
            storage=tmp_path / "storage",
            outbox=tmp_path / "outbox",
            guard_socket=guard_socket,
        ).model_dump_json()
    )
    told: list[tuple[float, str]] = []
    must: set[str] = set()
    ages: dict[str, float] = {}
    for round_ in range(1, ROUNDS + 1):
        with started(repository, settings, round_, 100_000) as process:
            assert process.stdout is not None
            shipping = int(process.stdout.readline().removeprefix("pid "))
            told.clear()
            told.append((time.monotonic(), process.stdout.readline()))
            reader = threading.Thread(
                target=lambda out=process.stdout: told.extend(
                    (time.monotonic(), line) for line in out
                )
            )
            reader.start()
            if victim == "shipping":
                # Imports take it about a second: so it is killed before, at and after its start.
                time.sleep(rng.uniform(0.0, 2.5))
                os.kill(shipping, signal.SIGKILL)
            time.sleep(rng.uniform(0.0, 0.7))
            killed = time.monotonic()
            process.kill()
            process.wait()
            reader.join()
        grown = aged(told, killed)
        ages |= grown
        must |= {line for line, age in grown.items() if line[0] == "f" or age > 0.1}
    with started(repository, settings, 99, 0) as process:
        assert process.wait(120) == 0
    engine = make_engine(url)
    with reading(engine) as connection:
        captures = Counter(connection.scalars(select(CAPTURES.c.id)))
        flags = Counter(connection.scalars(select(FEEDBACK.c.id)))
        linked = set(
            connection.scalars(select(FEEDBACK.c.response_id).where(FEEDBACK.c.status == "linked"))
        )
        uses = Counter(connection.scalars(select(COUNTED.c.id)))
        used = dict(
            connection.execute(
                select(USAGE.c.alias, func.sum(USAGE.c.requests)).group_by(USAGE.c.alias)
            ).all()
        )
        items = Counter(connection.scalars(select(REVIEW_ITEMS.c.response_id)))
    engine.dispose()
    assert len(must) > ROUNDS
    missing = must - {f"c {name}" for name in captures} - {f"f {name}" for name in flags}
    missing -= {f"u {name}" for name in uses}
    assert not missing, {name: round(ages[name], 3) for name in missing}
    assert {*captures.values(), *flags.values(), *items.values()} == {1}
    assert used == {"support": len(captures), "triage": len(uses)}
    assert linked <= set(items)
