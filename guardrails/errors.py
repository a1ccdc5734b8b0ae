"""Every error that the guardrails raise.

GuardError
├── GuardUnavailable  no verdict could be had in time; the caller decides what that means
└── PolicyError       the policy file cannot be used; the message names file and line

The docstring is the message where none is given.
"""

from __future__ import annotations


class GuardError(Exception):
    """Something went wrong in the guardrails."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.message)


class GuardUnavailable(GuardError):
    """The guard process gave no verdict in time."""


class PolicyError(GuardError):
    """The policy file cannot be used."""
