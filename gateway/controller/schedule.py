"""Queues refreshes at the times that the configuration gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from cronsim import CronSim
from sqlalchemy import Engine

from feedback.data.service import DataStore
from feedback.db import reading, server_time
from feedback.errors import Conflicting
from feedback.jobs import Jobs
from gateway.settings import RefreshSettings

logger = logging.getLogger(__name__)

_LOOK_BACK = 100
"""An alias's newest jobs, among which the schedule looks for its own last one."""


def due(cron: str, last: float, now: float) -> bool:
    """Whether a time of `cron` (in UTC) lies after `last` and not after `now`.

    However many were missed meanwhile, it is one refresh that is due.
    """
    following = next(CronSim(cron, datetime.fromtimestamp(last, UTC)))
    return following.timestamp() <= now


class Schedule:
    """One look at what is due. Blocks: use threads. The jobs themselves are its memory."""

    def __init__(
        self, engine: Engine, settings: RefreshSettings, clock: Callable[[], float] | None = None
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock or self._server_time
        self._jobs = Jobs(engine)
        self._data = DataStore(engine)
        self._begun: float | None = None

    def step(self) -> None:
        """Queue what is due, or record why it was skipped.

        An alias that fails keeps none of the others waiting. Raises what went wrong.
        """
        if self._settings.cron is None:
            return
        now = self._clock()
        if self._begun is None:
            self._begun = now
        errors: list[Exception] = []
        for alias in self._settings.aliases:
            try:
                if due(self._settings.cron, self._last(alias), now):
                    self._refresh(alias)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _last(self, alias: str) -> float:
        """When the schedule last acted for an alias; the controller's start where it never has."""
        jobs = self._jobs.find(self._settings.tenant, alias, None, _LOOK_BACK)
        times = [job["created_at"] for job in jobs if job["parameters"].get("scheduled")]
        return max(times, default=self._begun or 0.0)

    def _refresh(self, alias: str) -> None:
        tenant, fewest = self._settings.tenant, self._settings.minimum_new
        # A refresh that failed has used up nothing: what it was for is new still.
        done = self._jobs.find(tenant, alias, "done", 1)
        new = self._data.count_new(tenant, alias, done[0]["created_at"] if done else 0.0)
        if new < fewest:
            reason = f"{new} new rows since the last refresh, and {fewest} are needed"
            self._skip(alias, reason)
            return
        try:
            job = self._jobs.add(tenant, "refresh", alias, {"scheduled": True})
            logger.info("refresh of %s is queued: job %s, %d new rows", alias, job["id"], new)
        except Conflicting as error:
            self._skip(alias, error.message)

    def _skip(self, alias: str, reason: str) -> None:
        tenant = self._settings.tenant
        self._jobs.skip(tenant, "refresh", alias, reason, {"scheduled": True})
        logger.info("refresh of %s is skipped: %s", alias, reason)

    def _server_time(self) -> float:
        with reading(self._engine) as connection:
            return server_time(connection)
