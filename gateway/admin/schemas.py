"""What the bodies of the admin API have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt

MAX_INT = 2**31 - 1  # what the database takes

Number = Annotated[
    StrictInt, Field(ge=1, le=MAX_INT, description="the version's number, as in `support@7`")
]
NumberOrBase = Annotated[
    StrictInt, Field(ge=0, le=MAX_INT, description="the version's number; 0 is the base model")
]
# PostgreSQL refuses NUL, and a record of one line stays readable without the other controls.
Line = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


Limit = Annotated[int, Query(ge=1, le=1000, description="entries of a page, at most")]
AfterId = Annotated[
    int | None, Query(ge=1, le=MAX_INT, description="the `last_id` of the page before")
]


class Asked(BaseModel):
    """A body that is asked with: a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """A body that is answered with."""

    model_config = ConfigDict(frozen=True)


class Page(Told):
    """A part of a list, in its order. Where `has_more`, the next begins `after` the `last_id`."""

    object: Literal["list"] = "list"
    first_id: int | str | None
    last_id: int | str | None
    has_more: bool


def paged(found: Sequence[Any], limit: int, name: str = "id") -> dict[str, Any]:
    """Give a page's fields; one more than `limit` was looked for, to tell whether there is more.

    `name` is the field of an entry that tells it from others.
    """
    shown = list(found[:limit])
    ids = [getattr(one, name) for one in shown]
    return {
        "data": shown,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": len(found) > limit,
    }


class ErrorDetail(Told):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Told):
    """OpenAI's error body."""

    error: ErrorDetail
