"""A claim on a job, kept alive while it is worked on."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from trainer.client import AdminClient
from trainer.errors import GatewayAway, LeaseLost, Refused

BEAT_S = 5.0


class Lease:
    """Sends heartbeats from a thread while the block runs.

    A gateway that is away does not end the claim: another trainer cannot claim then either, and the
    next heartbeat that is answered says whose the job is.
    """

    def __init__(
        self, client: AdminClient, job_id: str, holder: str, *, beat_s: float = BEAT_S
    ) -> None:
        self._client = client
        self._path = f"/jobs/{job_id}"
        self._holder = holder
        self._beat_s = beat_s
        self._stage: str | None = None
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def check(self) -> None:
        """Raise LeaseLost once the job is not ours any more."""
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def enter(self, stage: str) -> None:
        """Tell which stage begins. Raises LeaseLost."""
        self._stage = stage
        self._say("heartbeat", {"stage": stage})

    def made(self, stage: str, what: dict[str, Any]) -> None:
        """Record what a stage made; it is not run again after that. Raises LeaseLost."""
        self._say("stages", {"stage": stage, "made": what})

    def finish(self, state: str, result: dict[str, Any] | None, reason: str | None) -> None:
        """End the job for good. Raises LeaseLost."""
        self._say("finish", {"state": state, "result": result, "reason": reason})

    def release(self) -> None:
        """Give the job back, so that it goes on at once elsewhere. Raises LeaseLost."""
        self._say("release", {})

    def _say(self, what: str, body: dict[str, Any]) -> None:
        self.check()
        try:
            self._client.post(f"{self._path}/{what}", {"holder": self._holder, **body})
        except Refused as error:
            if error.status in (404, 409):
                self._lost = str(error)
                raise LeaseLost(str(error)) from error
            raise

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                self._say("heartbeat", {"stage": self._stage})
            except (GatewayAway, Refused):
                continue
            except LeaseLost:
                return
