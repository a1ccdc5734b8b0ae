from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from deploy.migrations import upgrade
from feedback.data.rows import GivenRow
from feedback.data.service import DataStore
from feedback.db import make_engine
from feedback.jobs import Jobs
from gateway.controller.schedule import Schedule, due
from gateway.settings import RefreshSettings

TWO = 1_800_064_800.0  # 2027-01-16 02:00 UTC
HOUR = 3600.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/a.db"
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (TWO - HOUR, TWO - 1, False),
        (TWO - HOUR, TWO, True),
        (TWO, TWO + HOUR, False),
        (TWO - 72 * HOUR, TWO - HOUR, True),
    ],
)
def test_due(last: float, now: float, expected: bool) -> None:
    assert due("0 2 * * *", last, now) is expected


def test_each_night_is_run_once_or_skipped_with_its_reason(engine: Engine) -> None:
    now = TWO - HOUR
    settings = RefreshSettings(cron="0 2 * * *", aliases=("support",), minimum_new=3)
    jobs = Jobs(engine, clock=lambda _: now)
    data = DataStore(engine, clock=lambda _: now)

    def schedule() -> Schedule:
        made = Schedule(engine, settings, lambda: now)
        made._jobs, made._data = jobs, data
        return made

    one = schedule()
    one.step()
    assert jobs.find("default", None, None, 10) == []  # nothing was due since the start
    now = TWO + 1
    one.step()
    one.step()
    schedule().step()  # another leader knows that it was done
    (skipped,) = jobs.find("default", "support", None, 10)
    assert (skipped["state"], skipped["reason"]) == (
        "skipped",
        "0 new rows since the last refresh, and 3 are needed",
    )
    rows = [GivenRow(n, "Answer.", f"question {n}", "a") for n in range(3)]
    data.import_rows("default", "support", rows, "file")
    now = TWO + 72 * HOUR  # away for three nights: one refresh
    schedule().step()
    schedule().step()
    queued = jobs.find("default", "support", "queued", 10)
    assert len(queued) == 1
    now += 24 * HOUR
    schedule().step()
    newest = jobs.find("default", "support", "skipped", 10)[0]
    assert f"queued already: job {queued[0]['id']}" in newest["reason"]

    # It takes its snapshot and fails: what it was for is still new the next night.
    data.build("default", "support")
    claimed = jobs.claim("default", "trainer", ["refresh"])
    assert claimed is not None
    jobs.finish("default", claimed["id"], "trainer", "failed", None, "out of memory")
    now += 24 * HOUR
    schedule().step()
    (retried,) = jobs.find("default", "support", "queued", 10)
    assert retried["id"] != claimed["id"]


@pytest.mark.parametrize(
    "cron", ["", "often", "61 * * * *", "0 2 * *", "* * * * * *", "0 0 30 2 *", "0 0 31 4,6 *"]
)
def test_a_wrong_expression_is_named(cron: str) -> None:
    with pytest.raises(ValidationError, match="is no cron expression"):
        RefreshSettings(cron=cron, aliases=("support",))


def test_a_time_without_aliases_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="aliases does not say what"):
        RefreshSettings(cron="0 2 * * *")


def test_one_alias_in_trouble_holds_up_no_other(engine: Engine) -> None:
    now = TWO - HOUR
    settings = RefreshSettings(cron="0 2 * * *", aliases=("a", "b"), minimum_new=3)
    schedule = Schedule(engine, settings, lambda: now)
    schedule.step()

    class Broken(DataStore):
        def count_new(self, tenant: str, alias: str, since: float) -> int:
            if alias == "a":
                raise ValueError("no luck")
            return super().count_new(tenant, alias, since)

    now = TWO
    schedule._data = Broken(engine)
    with pytest.raises(ValueError, match="no luck"):
        schedule.step()
    (skipped,) = Jobs(engine).find("default", None, None, 10)
    assert skipped["alias"] == "b"
