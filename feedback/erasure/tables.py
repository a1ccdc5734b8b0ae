"""What erasures leave behind: tombstones that hold them, and the record of what was done.

Neither holds a text. People are named by their sessions' pseudonyms.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from feedback.tables import FeedbackBase


class TombstoneRow(FeedbackBase):
    """Something that was erased and must not come back.

    `kind` is session or key (of which nothing is kept that began before `at`), response, ticket,
    import (`alias/digest` of a row as its file had it) or golden (`alias/digest` of an item). The
    other columns say whose it was, so that the same erasure again finds what it found before.
    """

    __tablename__ = "tombstones"
    __table_args__ = (
        Index(None, "tenant", "session"),
        Index(None, "tenant", "key_id"),
        Index(None, "tenant", "response_id"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    session: Mapped[str | None]
    key_id: Mapped[int | None]
    response_id: Mapped[str | None]
    at: Mapped[float]


class ErasureRow(FeedbackBase):
    """A line of the record of an erasure; append-only.

    `stage` is begun, with the `subjects`; step, with the `counts` of what it erased by kind; or
    finished, with the `datasets` (digests) that held any of it.
    """

    __tablename__ = "erasures"
    __table_args__ = (Index(None, "tenant", "erasure_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    erasure_id: Mapped[str]
    tenant: Mapped[str]
    stage: Mapped[str]
    actor: Mapped[str]
    reference: Mapped[str]
    subjects: Mapped[dict[str, Any]]
    counts: Mapped[dict[str, Any]]
    datasets: Mapped[list[str]]
    at: Mapped[float]


TOMBSTONES = FeedbackBase.metadata.tables["tombstones"]
ERASURES = FeedbackBase.metadata.tables["erasures"]
