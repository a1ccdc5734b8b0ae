from __future__ import annotations

import time

import httpx
import pytest

from tests.unit.trainer.fake_gateway import FakeGateway
from trainer.client import AdminClient
from trainer.errors import LeaseLost
from trainer.lease import Lease


@pytest.fixture
def gateway() -> FakeGateway:
    gateway = FakeGateway()
    gateway.add_job(state="running", lease_holder="me")
    return gateway


def lease(gateway: FakeGateway, holder: str = "me", patience: float = 0) -> Lease:
    client = AdminClient("http://g", "sk", patience=patience, transport=gateway.transport)
    return Lease(client, "job-1", holder, beat_s=0.01)


def beats(gateway: FakeGateway) -> int:
    return gateway.calls.count("POST /jobs/job-1/heartbeat")


def test_it_beats_while_the_block_runs_and_no_longer(gateway: FakeGateway) -> None:
    with lease(gateway) as held:
        held.enter("train")
        until(lambda: beats(gateway) >= 4)
    assert gateway.jobs["job-1"]["stage"] == "train"
    time.sleep(0.05)
    after = beats(gateway)
    time.sleep(0.05)
    assert beats(gateway) == after


def test_a_lost_lease_shows_at_the_next_check(gateway: FakeGateway) -> None:
    with lease(gateway) as held:
        held.check()
        gateway.jobs["job-1"]["lease_holder"] = "another"
        until(lambda: lost(held))
        with pytest.raises(LeaseLost, match="another trainer's"):
            held.made("train", {})
    assert gateway.jobs["job-1"]["stages"] == {}


def test_a_gateway_that_is_away_for_a_while_costs_nothing(gateway: FakeGateway) -> None:
    with lease(gateway) as held:
        gateway.trouble = [httpx.ConnectError("refused")] * 3
        until(lambda: not gateway.trouble and beats(gateway) >= 2)
        held.check()
        held.finish("done", {"version": 1}, None)
    assert gateway.jobs["job-1"]["state"] == "done"


def lost(held: Lease) -> bool:
    try:
        held.check()
    except LeaseLost:
        return True
    return False


def until(holds: object, seconds: float = 5.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.005)
