"""Every error the trainer raises.

TrainerError
├── RowInvalid        a line of a data set is not an instruction row
├── NoRows            a data set holds nothing to train on
└── PromptsTooFew     not enough distinct rows for a fingerprint

The docstring is the message where none is given.
"""

from __future__ import annotations


class TrainerError(Exception):
    """The trainer cannot go on."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class RowInvalid(TrainerError):
    """A line of the data set is not an instruction row."""


class NoRows(TrainerError):
    """The data set holds no rows."""


class PromptsTooFew(TrainerError):
    """A fingerprint needs at least four distinct rows."""
