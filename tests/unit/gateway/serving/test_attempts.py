"""Whether a call that a worker failed may go to another one."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Overloaded, UpstreamFailed
from gateway.serving.attempts import Attempts, ModelLost, WorkerFull, WorkerRefused, verdict
from gateway.serving.upstream import UpstreamError, UpstreamTimeout
from gateway.workers.probe import Observed

SEEN = Observed("w0")


class Routes:
    """A router's part in it: what it knows, what it was told, and how many retries it allows."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.told: list[str] = []

    def observed(self, worker: str) -> Observed:
        return SEEN

    def refused(self, worker: str) -> None:
        self.told.append(f"{worker} is full")

    def suspect(self, worker: str) -> None:
        self.told.append(f"{worker} is suspect")

    def may_retry(self) -> bool:
        self.retries -= 1
        return self.retries >= 0


def routes(retries: int = 9) -> Any:
    return Routes(retries)


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (WorkerRefused("500"), UpstreamFailed, "suspect"),
        (UpstreamTimeout("slow"), UpstreamFailed, "suspect"),
        (WorkerFull("429"), Overloaded, "full"),
    ],
)
def test_the_second_worker_that_fails_is_the_last(
    error: UpstreamError, raised: type[Exception], told: str
) -> None:
    attempts, router = Attempts(), routes()
    attempts.failed("w0", error, router)
    with pytest.raises(raised):
        attempts.failed("w1", error, router)
    assert router.told == [f"w0 is {told}", f"w1 is {told}"]
    assert attempts.avoid.keys() == {"w0"}


def test_workers_that_took_nothing_are_no_refusals() -> None:
    attempts, router = Attempts(), routes()
    for error in (UpstreamError("no connection"), ModelLost("404"), UpstreamError("reset")):
        attempts.failed("w0", error, router)
    assert attempts.refusals == 0
    assert attempts.avoid == {"w0": SEEN}  # until something newer is known of it


def test_one_that_is_slow_is_avoided_for_good() -> None:
    attempts = Attempts()
    attempts.failed("w0", UpstreamTimeout("slow"), routes())
    assert attempts.avoid == {"w0": None}


@pytest.mark.parametrize(("retries", "sent"), [(0, False), (9, True)])
def test_without_retries_and_after_the_first_byte_there_is_no_other(
    retries: int, sent: bool
) -> None:
    router = routes(retries)
    with pytest.raises(UpstreamFailed):
        Attempts().failed("w0", UpstreamError("reset"), router, sent=sent)


def test_what_a_failure_says_of_the_worker() -> None:
    for error in (UpstreamError("reset"), WorkerRefused("500"), UpstreamFailed("cut")):
        assert verdict(error) is False
    for error in (ModelLost("404"), WorkerFull("429")):
        assert verdict(error) is None
