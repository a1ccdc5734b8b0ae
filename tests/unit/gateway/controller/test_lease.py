"""Leadership: held only while the lease cannot have run out."""

from __future__ import annotations

import asyncio

import pytest

from gateway.controller.lease import Leadership
from gateway.errors import StoreUnavailable


class Leases:
    """One lease, held by whoever asked first."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self.down = False

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        if self.down:
            raise StoreUnavailable
        self.holder = self.holder or holder
        return self.holder == holder

    def release_lease(self, name: str, holder: str) -> bool:
        if self.down:
            raise StoreUnavailable
        self.holder = None
        return True


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_one_leads_and_the_other_stands_by() -> None:
    leases = Leases()
    first, second = Leadership(leases, "a"), Leadership(leases, "b")
    assert await first.renew()
    assert not await second.renew()
    leases.holder = "b"
    assert not await first.renew()
    assert await second.renew()


async def test_a_store_that_is_down_lets_the_lease_run_out() -> None:
    leases, clock = Leases(), Clock()
    leader = Leadership(leases, "a", ttl_s=10, clock=clock)
    await leader.renew()
    leases.down = True
    clock.now = 9.0
    assert await leader.renew()
    clock.now = 10.0
    assert not leader.held
    assert not await leader.renew()
    leases.down = False
    assert await leader.renew()


@pytest.mark.parametrize("down", [False, True])
async def test_the_lease_is_given_back_at_the_end(down: bool) -> None:
    leases = Leases()
    leader = Leadership(leases, "a", renew_s=0.01)
    task = asyncio.ensure_future(leader.run())
    async with asyncio.timeout(5):
        while not leader.held:  # noqa: ASYNC110 (nothing tells when)
            await asyncio.sleep(0.01)
    leases.down = down
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not leader.held
    assert leases.holder == ("a" if down else None)
