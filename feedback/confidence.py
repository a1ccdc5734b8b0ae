"""What reviews say of the model's sureness: how far it can be trusted, and what nobody notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, and_, select

from feedback import sampling
from feedback.calibration import Fit, Label, Rate, auroc, fit, rate
from feedback.db import reading, server_time
from feedback.repository import read_sampling
from feedback.sampling import Use
from feedback.settings import FeedbackSettings
from feedback.tables import CAPTURES, REVIEW_ITEMS, REVIEWS

_NOTICED = ("flagged", "guarded", "doubtful")


@dataclass(frozen=True, slots=True)
class Trust:
    """How sureness and reviews go together for one alias.

    `labels` counts reviewed answers with a score by why they were reviewed, `wrong` those that were
    not right. `auroc_minimum` is that of the least sure token. `missed` is the share of all answers
    that are wrong though neither flag, guard nor doubt brought them up, by the audit; None where
    nothing was audited.
    """

    alias: str
    labels: Mapping[str, int]
    wrong: int
    fit: Fit
    auroc_minimum: float | None
    missed: Rate | None
    use: Use


def trust_of(
    engine: Engine,
    settings: FeedbackSettings,
    tenant: str,
    alias: str,
    *,
    clock: Callable[[Connection], float] = server_time,
) -> Trust:
    """Report on an alias. Blocks. Raises `StoreAway`."""
    with reading(engine) as connection:
        rows = _reviewed(connection, tenant, alias)
        state = read_sampling(connection, tenant, alias)
        use = sampling.use_of(state, clock(connection), settings.budget(alias))
    scored = [row for row in rows if row["confidence_mean"] is not None]
    labels = [Label(row["confidence_mean"], _right(row), _weight(row)) for row in scored]
    least = [
        x.score if row["confidence_min"] is None else row["confidence_min"]
        for x, row in zip(labels, scored, strict=True)
    ]
    return Trust(
        alias,
        dict(sorted(Counter(row["reason"] for row in scored).items())),
        sum(not x.right for x in labels),
        fit(labels),
        auroc(labels, least),
        _missed(rows),
        use,
    )


def _reviewed(connection: Connection, tenant: str, alias: str) -> list[RowMapping]:
    """Give the newest verdict in force on each answer that was judged, the oldest answer first."""
    query = (
        select(
            REVIEWS.c.item_id,
            REVIEWS.c.verdict,
            REVIEW_ITEMS.c.reason,
            REVIEW_ITEMS.c.inclusion_probability.label("drawn"),
            CAPTURES.c.reasons,
            CAPTURES.c.inclusion_probability.label("audited"),
            CAPTURES.c.confidence_mean,
            CAPTURES.c.confidence_min,
        )
        .join(REVIEW_ITEMS, REVIEW_ITEMS.c.id == REVIEWS.c.item_id)
        .join(
            CAPTURES,
            and_(
                CAPTURES.c.tenant == REVIEW_ITEMS.c.tenant,
                CAPTURES.c.id == REVIEW_ITEMS.c.response_id,
            ),
        )
        .where(
            REVIEW_ITEMS.c.tenant == tenant,
            REVIEW_ITEMS.c.alias == alias,
            REVIEWS.c.undone_at.is_(None),
        )
        .order_by(REVIEWS.c.id)
    )
    newest = {row["item_id"]: row for row in connection.execute(query).mappings()}
    return [row for row in newest.values() if row["verdict"] != "skip"]


def _right(row: RowMapping) -> bool:
    return bool(row["verdict"] == "correct")


def _weight(row: RowMapping) -> float:
    """Give one over the probability with which this answer came to be reviewed."""
    if row["reason"] not in ("audit", "doubtful"):
        return 1.0
    missed = 1 - row["audited"]
    if row["reason"] == "doubtful":
        missed *= 1 - row["drawn"]
    return 1 / (1 - missed) if missed < 1 else 1.0


def _missed(rows: Iterable[RowMapping]) -> Rate | None:
    audited: Sequence[Any] = [
        row for row in rows if "audit" in row["reasons"] and row["audited"] > 0
    ]
    hits = [not _right(row) and not set(row["reasons"]) & set(_NOTICED) for row in audited]
    return rate(hits, [1 / row["audited"] for row in audited])
