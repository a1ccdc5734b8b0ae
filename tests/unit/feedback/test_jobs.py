from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from feedback.errors import Conflicting, NotKnown
from feedback.jobs import LEASE_S, Jobs
from feedback.reports import Reports

from .conftest import Clock

T = "default"


@pytest.fixture
def jobs(engine: Engine, clock: Clock) -> Jobs:
    return Jobs(engine, clock=clock)


def test_a_job_goes_to_one_trainer_and_its_record_grows(jobs: Jobs) -> None:
    job_id = jobs.add(T, "refresh", "support", {"recipe": {"rank": 4}})["id"]
    claimed = jobs.claim(T, "one", ["refresh"])
    assert claimed is not None
    assert (claimed["id"], claimed["state"], claimed["parameters"]) == (
        job_id,
        "running",
        {"recipe": {"rank": 4}},
    )
    assert jobs.claim(T, "two", ["refresh"]) is None
    assert jobs.beat(T, job_id, "one", "train")["stage"] == "train"
    jobs.record(T, job_id, "one", "train", {"steps": 9})
    again = jobs.record(T, job_id, "one", "train", {"steps": 10})
    assert again["stages"] == {"train": {"steps": 9}}  # the first record stays
    ended = jobs.finish(T, job_id, "one", "done", {"version": 1}, None)
    assert (ended["state"], ended["result"], ended["lease_until"]) == ("done", {"version": 1}, None)
    assert jobs.finish(T, job_id, "one", "done", {"version": 1}, None)["state"] == "done"


def test_of_trainers_that_claim_at_once_one_wins(jobs: Jobs) -> None:
    for number in range(3):
        jobs.add(T, "refresh", f"alias-{number}", {})
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: jobs.claim(T, f"trainer-{n}", ["refresh"]), range(8)))
    taken = [claim["id"] for claim in claims if claim is not None]
    assert len(taken) == len(set(taken)) == 3


def test_a_trainer_that_is_gone_loses_its_job(jobs: Jobs, clock: Clock) -> None:
    job_id = jobs.add(T, "refresh", "support", {})["id"]
    jobs.claim(T, "one", ["refresh"])
    clock.now += LEASE_S - 1
    assert jobs.claim(T, "two", ["refresh"]) is None
    assert jobs.claim(T, "one", ["refresh"]) is not None  # one's own job again, which renews
    clock.now += LEASE_S + 1
    taken = jobs.claim(T, "two", ["refresh"])
    assert taken is not None
    for late in (
        lambda: jobs.beat(T, job_id, "one", "train"),
        lambda: jobs.record(T, job_id, "one", "train", {}),
        lambda: jobs.finish(T, job_id, "one", "done", None, None),
        lambda: jobs.release(T, job_id, "one"),
    ):
        with pytest.raises(Conflicting, match="is two's now"):
            late()


def test_a_released_job_is_free_at_once(jobs: Jobs) -> None:
    job_id = jobs.add(T, "refresh", "support", {})["id"]
    jobs.claim(T, "one", ["refresh"], job_id)
    assert jobs.release(T, job_id, "one")["state"] == "queued"
    assert jobs.claim(T, "two", ["refresh"], job_id) is not None


def test_an_alias_has_one_refresh_at_a_time(jobs: Jobs) -> None:
    first = jobs.add(T, "refresh", "support", {})["id"]
    with pytest.raises(Conflicting, match=f"queued already: job {first}"):
        jobs.add(T, "refresh", "support", {})
    jobs.add("another", "refresh", "support", {})
    jobs.cancel(T, first, "not now")
    assert jobs.add(T, "refresh", "support", {})["state"] == "queued"


def test_a_cancelled_job_tells_its_trainer(jobs: Jobs) -> None:
    job_id = jobs.add(T, "refresh", "support", {})["id"]
    jobs.claim(T, "one", ["refresh"])
    jobs.cancel(T, job_id, "wrong data")
    with pytest.raises(Conflicting, match="is cancelled"):
        jobs.beat(T, job_id, "one", "train")
    with pytest.raises(Conflicting, match="is cancelled already"):
        jobs.cancel(T, job_id, "again")


def test_tenants_do_not_see_each_others_jobs(jobs: Jobs) -> None:
    job_id = jobs.add(T, "refresh", "support", {})["id"]
    assert jobs.claim("another", "one", ["refresh"]) is None
    assert jobs.find("another", None, None, 10) == []
    with pytest.raises(NotKnown):
        jobs.get("another", job_id)


def test_a_skipped_job_keeps_its_reason(jobs: Jobs) -> None:
    jobs.skip(T, "refresh", "support", "3 new rows", {"scheduled": True})
    (job,) = jobs.find(T, "support", "skipped", 10)
    assert (job["reason"], job["parameters"]) == ("3 new rows", {"scheduled": True})


def test_evaluations_are_kept_once_and_by_tenant(engine: Engine, clock: Clock) -> None:
    reports = Reports(engine, clock=clock)
    reports.put_evaluation(T, "a" * 64, {"n": 1})
    reports.put_evaluation(T, "a" * 64, {"n": 2})
    assert reports.get_evaluation(T, "a" * 64) == {"n": 1}
    with pytest.raises(NotKnown):
        reports.get_evaluation("another", "a" * 64)


def test_the_newest_verdict_counts(engine: Engine, clock: Clock) -> None:
    reports = Reports(engine, clock=clock)
    gate = {"alias": "support", "candidate": "support@2", "against": "support@1", "report": {}}
    first = reports.add_gate(T, {**gate, "verdict": "FAIL", "job_id": None})
    reports.add_gate(T, {**gate, "verdict": "PASS", "job_id": None})
    newest = reports.verdict(T, "support", "support@2", "support@1")
    assert newest is not None
    assert newest["verdict"] == "PASS"
    assert reports.verdict(T, "support", "support@2", "base") is None
    assert reports.get_gate(T, first["id"])["verdict"] == "FAIL"
    assert len(reports.gates(T, "support")) == 2


def test_ones_own_job_comes_before_those_that_wait(jobs: Jobs, clock: Clock) -> None:
    first = jobs.add(T, "refresh", "a", {})["id"]
    clock.now += 1
    second = jobs.add(T, "refresh", "b", {})["id"]
    assert jobs.claim(T, "one", ["refresh"], second) is not None
    claimed = jobs.claim(T, "one", ["refresh"])  # it was restarted, and goes on with its own
    assert claimed is not None
    assert claimed["id"] == second
    other = jobs.claim(T, "two", ["refresh"])
    assert other is not None
    assert other["id"] == first


def test_only_some_aliases_and_kinds(jobs: Jobs) -> None:
    jobs.add(T, "refresh", "a", {})
    assert jobs.claim(T, "one", ["refresh"], aliases={"b"}) is None
    assert jobs.claim(T, "one", ["export"]) is None
    assert jobs.find(T, None, None, 10, aliases={"b"}) == []
    assert len(jobs.find(T, None, None, 10, aliases={"a", "b"})) == 1
    assert jobs.claim(T, "one", ["refresh"], aliases={"a"}) is not None


def test_of_those_who_ask_for_a_refresh_at_once_one_is_first(jobs: Jobs) -> None:
    def ask(_: int) -> bool:
        try:
            jobs.add(T, "refresh", "support", {})
        except Conflicting:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_of_those_who_follow_a_dead_trainer_one_wins(jobs: Jobs, clock: Clock) -> None:
    jobs.add(T, "refresh", "support", {})
    jobs.claim(T, "dead", ["refresh"])
    clock.now += LEASE_S + 1
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: jobs.claim(T, f"trainer-{n}", ["refresh"]), range(8)))
    assert sum(claim is not None for claim in claims) == 1
