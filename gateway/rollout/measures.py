"""What a canary's callers met with, by user, from the store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, String, and_, case, cast, exists, func, or_, select

from feedback.tables import CAPTURES, FEEDBACK
from gateway.registry.snapshot import Alias, Version
from gateway.rollout.rule import HARD_FAULTS, LONGEST_S, Measure
from gateway.rollout.sequential import Arm
from gateway.settings import RolloutSettings

# Calls wait for room on workers that other versions fill too, so that time is nobody's fault.
_SECONDS = CAPTURES.c.duration - CAPTURES.c.queued
USER = func.coalesce(CAPTURES.c.session, CAPTURES.c.id)
"""Who called: a call without a session is a user of its own."""
_FLAGGED = exists().where(
    FEEDBACK.c.tenant == CAPTURES.c.tenant,
    FEEDBACK.c.response_id == CAPTURES.c.id,
    or_(FEEDBACK.c.rating == "down", FEEDBACK.c.correction.is_not(None), FEEDBACK.c.score < 0.5),
)


@dataclass(frozen=True, slots=True)
class Since:
    """Answers of an alias from a moment on, in seconds since the epoch."""

    alias: Alias
    at: float

    def of(self, *versions: Version) -> Any:
        """Give the condition for these versions' answers.

        What a version answers in another's place counts for neither: its callers were not drawn.
        """
        return and_(
            CAPTURES.c.fallback.is_(None),
            CAPTURES.c.tenant == self.alias.tenant,
            CAPTURES.c.alias == self.alias.name,
            CAPTURES.c.started >= self.at,
            CAPTURES.c.version_id.in_([version.id for version in versions]),
        )


def outcomes(connection: Connection, since: Since, version: Version) -> tuple[int, int]:
    """Count a version's answers and its hard faults."""
    query = (
        select(CAPTURES.c.outcome, func.count())
        .where(since.of(version))
        .group_by(CAPTURES.c.outcome)
    )
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
    return counts.get("ok", 0), sum(counts.get(name, 0) for name in HARD_FAULTS)


def measures(
    connection: Connection,
    since: Since,
    candidate: Version,
    stable: Version,
    settings: RolloutSettings,
) -> list[Measure]:
    """Measure both versions; a call without a session is a user of its own."""
    users = _users(connection, since, candidate, stable)
    blocks = _blocks(connection, since, candidate, stable)
    arms: dict[str, dict[int, Arm]] = defaultdict(lambda: defaultdict(Arm))
    for row in users:
        at = row["version_id"]
        arms["flags"][at].add(row["answers"], row["flags"])
        arms["blocks"][at].add(row["answers"], blocks[at, row["user"]])
        arms["errors"][at].add(row["calls"], row["errors"])
        arms["seconds"][at].add(row["answers"], row["seconds"])
    rates = [
        Measure(name, arms[name][candidate.id], arms[name][stable.id], settings.margin)
        for name in ("flags", "blocks", "errors")
    ]
    seconds = arms["seconds"]
    slower = settings.slower * max(seconds[stable.id].mean, 0.01)
    last = Measure(
        "seconds", seconds[candidate.id], seconds[stable.id], slower, rate=False, unit=" s"
    )
    return [*rates, last]


class Answered(NamedTuple):
    """An answer: whose, when in seconds since the epoch, and how it went, without the queue."""

    version_id: int
    at: float
    flagged: bool
    seconds: float


def series(
    connection: Connection, since: Since, *versions: Version, most: int = 20_000
) -> list[Answered]:
    """Give the latest answers, oldest first."""
    query = (
        select(CAPTURES.c.version_id, CAPTURES.c.started, _FLAGGED, _SECONDS)
        .where(since.of(*versions), CAPTURES.c.outcome == "ok")
        .order_by(CAPTURES.c.started.desc())
        .limit(most)
    )
    rows = connection.execute(query).all()
    return [Answered(row[0], row[1], bool(row[2]), row[3]) for row in reversed(rows)]


def _users(connection: Connection, since: Since, *versions: Version) -> list[Mapping[str, Any]]:
    """Sum each user's calls: answers with their flags and seconds, and all calls with errors."""
    answered = CAPTURES.c.outcome == "ok"
    seconds = case((_SECONDS > LONGEST_S, LONGEST_S), else_=_SECONDS)
    fault = CAPTURES.c.outcome.in_(HARD_FAULTS)
    query = (
        select(
            CAPTURES.c.version_id,
            USER.label("user"),
            func.sum(case((or_(answered, fault), 1), else_=0)).label("calls"),
            func.sum(case((answered, 1), else_=0)).label("answers"),
            func.sum(case((fault, 1), else_=0)).label("errors"),
            func.sum(case((and_(answered, _FLAGGED), 1), else_=0)).label("flags"),
            func.sum(case((answered, seconds), else_=0.0)).label("seconds"),
        )
        .where(since.of(*versions))
        .group_by(CAPTURES.c.version_id, USER)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _blocks(connection: Connection, since: Since, *versions: Version) -> Counter[tuple[int, str]]:
    """Count the answers of each version and user in which a guard blocked something."""
    query = select(CAPTURES.c.version_id, USER, CAPTURES.c.audit).where(
        since.of(*versions),
        CAPTURES.c.outcome == "ok",
        cast(CAPTURES.c.reasons, String).contains('"guarded"'),
    )
    found: Counter[tuple[int, str]] = Counter()
    for version_id, user, audit in connection.execute(query):
        found[version_id, user] += any(_is_block(entry) for entry in audit)
    return found


def _is_block(entry: Mapping[str, Any]) -> bool:
    return entry.get("stage") == "output" and entry.get("action") == "block"
