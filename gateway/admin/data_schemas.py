"""The bodies of imports, golden sets and data sets. Times are seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from sqlalchemy import RowMapping

from feedback.data.golden import GoldenItem, GoldenSet
from feedback.data.imports import Imported
from feedback.data.rows import MAX_TEXT
from gateway.admin.schemas import Asked, Page, Told

# PostgreSQL keeps no NUL.
Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
FullText = Annotated[Text, Field(min_length=1)]
Word = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]

Moment = Annotated[float, Field(allow_inf_nan=False)]


class BadRowOut(Told):
    """A row that was left out, and what to do about it."""

    line: int
    reason: str
    message: str


class ImportOut(Told):
    """What became of a file's rows; `examples` are the first that were left out.

    `scrubbed` counts those of the imported ones whose personal data was replaced.
    """

    alias: str
    read: int
    imported: int
    scrubbed: int
    dropped: dict[str, int]
    examples: list[BadRowOut]
    dry_run: bool

    @classmethod
    def of(cls, alias: str, found: Imported, dry_run: bool) -> ImportOut:
        """Tell of an import."""
        examples = [
            BadRowOut(line=bad.line, reason=bad.reason, message=bad.message)
            for bad in found.examples
        ]
        return cls(
            alias=alias,
            read=found.read,
            imported=found.imported,
            scrubbed=found.scrubbed,
            dropped=dict(found.dropped),
            examples=examples,
            dry_run=dry_run,
        )


class GoldenIn(Asked):
    """A golden item as it is put; dates in ISO 8601, or seconds since the epoch."""

    id: Annotated[Word, Field(min_length=1)]
    instruction: FullText
    input: FullText
    output: FullText
    slice: Word = ""
    template_id: Word | None = None
    valid_from: Moment | None = None
    valid_until: Moment | None = None

    @field_validator("valid_from", "valid_until", mode="before")
    @classmethod
    def _dates(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        begin, end = self.valid_from, self.valid_until
        if begin is not None and end is not None and end <= begin:
            raise ValueError("valid_until must be later than valid_from")
        return self

    def item(self) -> GoldenItem:
        """Give the value that the store takes."""
        return GoldenItem(**self.model_dump())


class GoldenOut(Told):
    """A golden set in short."""

    alias: str
    digest: str
    items: int
    slices: dict[str, int]

    @classmethod
    def of(cls, alias: str, found: GoldenSet) -> GoldenOut:
        """Tell of a golden set."""
        return cls(alias=alias, digest=found.digest, items=len(found.items), slices=found.slices)


class DatasetRequest(Asked):
    """The alias whose data set is made."""

    alias: str


class DatasetOut(Told):
    """A data set: `dropped` and `origins` count rows; `new_rows` the newest one before lacked.

    `golden` is the digest of the golden set that was in force; `erased` rows have lost theirs.
    """

    digest: str
    alias: str
    rows: int
    new_rows: int
    dropped: dict[str, int]
    origins: dict[str, int]
    slices: dict[str, int]
    conflicts: list[dict[str, Any]]
    golden: str | None = None
    curation: dict[str, Any]
    erased: int = 0
    created_at: float

    @classmethod
    def of(cls, row: RowMapping) -> DatasetOut:
        """Tell of a data set."""
        return cls(
            digest=row["digest"],
            alias=row["alias"],
            created_at=row["created_at"],
            **row["manifest"],
        )


class DatasetList(Page):
    """Data sets, the newest first: an `id` is a digest."""

    data: list[DatasetOut]


class LineageOut(Told):
    """What became of an answer."""

    response_id: str
    alias: str | None
    version: int | None
    feedback: list[str]
    reviews: list[dict[str, Any]]
    rows: list[dict[str, Any]]
