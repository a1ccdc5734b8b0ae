"""What the pipeline hands to the form of a route: judged text and what travels with it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.serving.answers import BareToken, Token, Usage
from guardrails.types import Field


class TextReleased(msgspec.Struct):
    """Text that was judged, with the logprobs of exactly that text where they were asked for."""

    choice: int
    field: Field
    text: str
    tokens: Sequence[Token | BareToken] = ()


class ToolCalled(msgspec.Struct):
    """A whole tool call whose arguments were judged."""

    choice: int
    index: int
    id: str
    name: str
    arguments: str


class Finished(msgspec.Struct):
    """A choice is over."""

    choice: int
    reason: str


class Used(msgspec.Struct):
    """The answer is over and costs this."""

    usage: Usage


Event = TextReleased | ToolCalled | Finished | Used
