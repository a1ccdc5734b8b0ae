"""What the bodies of the admin API have in common."""

from __future__ import annotations

from typing import Annotated

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


class Asked(BaseModel):
    """A body that is asked with: a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """A body that is answered with."""

    model_config = ConfigDict(frozen=True)


class ErrorDetail(Told):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Told):
    """OpenAI's error body."""

    error: ErrorDetail
