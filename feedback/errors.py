"""What can go wrong in the feedback store.

FeedbackError
├── Invalid       400  a field cannot be used
├── NotKnown      404  there is no such thing, or it is another tenant's
├── Conflicting   409  the state does not allow this change
├── StoreAway     503  the database does not answer
└── FinderAway    503  nobody can tell now what is personal data in a text

The docstring is the message where none is given. Whoever answers over HTTP turns `status`, `code`
and `param` into an error body.
"""

from __future__ import annotations

from typing import ClassVar


class FeedbackError(Exception):
    """Something went wrong in the feedback store."""

    status: ClassVar[int] = 500
    code: str | None = None
    param: str | None = None

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        if param is not None:
            self.param = param
        super().__init__(self.message)


class Invalid(FeedbackError):
    """A field cannot be used."""

    status = 400
    code = "invalid_value"


class NotKnown(FeedbackError):
    """There is no such thing."""

    status = 404
    code = "not_found"


class Conflicting(FeedbackError):
    """The state does not allow this change."""

    status = 409
    code = "conflict"


class StoreAway(FeedbackError):
    """The database cannot be reached: try again shortly."""

    status = 503
    code = "store_unavailable"


class FinderAway(FeedbackError):
    """The guards cannot look for personal data right now: try again shortly."""

    status = 503
    code = "guards_unavailable"
