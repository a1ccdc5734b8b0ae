"""What a worker's failure means for a call: for its next attempt, and for that worker's circuit."""

from __future__ import annotations

from gateway.errors import Overloaded, UpstreamFailed
from gateway.serving.router import Router
from gateway.serving.upstream import UpstreamError, UpstreamTimeout
from gateway.workers.probe import Observed

_MOST = 2
"""Workers that may take a call and fail it, or turn it away, before the caller is told."""


class WorkerRefused(UpstreamError):
    """The worker itself is at fault (5xx): another one may answer."""


class WorkerFull(UpstreamError):
    """The worker takes no more calls right now (429): another one may."""


class ModelLost(UpstreamError):
    """The worker does not know the model any more: it has restarted."""


def verdict(error: UpstreamError | UpstreamFailed) -> bool | None:
    """Tell `Router.end` of a failed call: False, or None where the worker was not at fault.

    One that forgot an adapter was restarted, which the next probe will show.
    """
    return None if isinstance(error, ModelLost | WorkerFull) else False


class Attempts:
    """The workers that failed one call, and whether it may go to another one.

    `avoid` is for `Router.begin`; `refusals` counts those that had taken the call.
    """

    __slots__ = ("_turned_away", "avoid", "refusals")

    def __init__(self) -> None:
        self.avoid: dict[str, Observed | None] = {}
        self.refusals = 0
        self._turned_away = 0

    def failed(
        self, worker: str, error: UpstreamError, router: Router, *, sent: bool = False
    ) -> None:
        """Take note of a failure; raises where no other attempt is allowed, as after `sent`.

        `Overloaded` where workers take no more calls, else `UpstreamFailed`.
        """
        seen, failure = router.observed(worker), self._count(error)
        if isinstance(error, WorkerFull):
            router.refused(worker)
        else:
            router.suspect(worker)
        if sent or max(self.refusals, self._turned_away) >= _MOST or not router.may_retry():
            raise failure from error
        self.avoid[worker] = None if isinstance(error, UpstreamTimeout) else seen

    def _count(self, error: UpstreamError) -> Overloaded | UpstreamFailed:
        """Give what the caller is told if that was the last attempt."""
        if isinstance(error, WorkerFull):
            self._turned_away += 1
            return Overloaded("The workers take no more calls right now: try again shortly.")
        self.refusals += isinstance(error, UpstreamTimeout | WorkerRefused)
        return UpstreamFailed(f"The worker failed while answering: {error}.")
