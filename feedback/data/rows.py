"""Rows as people bring them: instruction, input and output."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_TEXT = 100_000
MAX_WORD = 200
FIELDS = ("instruction", "input", "output", "slice", "split_key", "template_id")
REQUIRED = ("instruction", "input", "output")


@dataclass(frozen=True, slots=True)
class GivenRow:
    """A row that can be used; `line` is where it begins, from 1."""

    line: int
    instruction: str
    input: str
    output: str
    slice: str = ""
    split_key: str = ""
    template_id: str = ""

    @property
    def digest(self) -> str:
        """Name the row by its content."""
        return row_digest(self.instruction, self.input, self.output, self.slice)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it begins, why in a word, and what to do about it."""

    line: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where each of our fields comes from: a column's name, or the same text for all rows."""

    columns: Mapping[str, str]
    constants: Mapping[str, str]

    def column(self, name: str) -> str:
        """Give the column that a field comes from."""
        return self.columns.get(name, name)


def row_digest(*parts: str) -> str:
    """Give the SHA-256 of several texts, none of which can run into the next."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def normal(text: str) -> str:
    """Give a text as it counts for exact duplicates: in small letters, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def given_row(line: int, value: Mapping[str, Any], mapped: Mapped) -> GivenRow | BadRow:
    """Make a row of what stands in a line, or say which field is at fault and what to do."""
    fields: dict[str, str] = dict(mapped.constants)
    for name in FIELDS:
        column = mapped.column(name)
        given = value.get(column)
        if given is None or name in fields:
            continue
        if not isinstance(given, str):
            kind = type(given).__name__
            message = f"line {line}: {column!r} is not a text but {kind}: put it in quotes"
            return BadRow(line, "not_text", message)
        fields[name] = given
    for name in REQUIRED:
        if not fields.get(name, "").strip():
            column = mapped.column(name)
            message = f"line {line}: {column!r} is missing or empty: give it, or leave the row out"
            return BadRow(line, f"no_{name}", message)
    for name, text in fields.items():
        if (trouble := _trouble(name, text)) is not None:
            reason, what = trouble
            return BadRow(line, reason, f"line {line}: {mapped.column(name)!r} {what}")
    return GivenRow(line, **fields)


def _trouble(name: str, text: str) -> tuple[str, str] | None:
    bound = MAX_TEXT if name in REQUIRED else MAX_WORD
    if len(text) > bound:
        return "too_long", f"has {len(text)} characters, more than {bound}: shorten it"
    # PostgreSQL keeps no NUL.
    if "\0" in text:
        return "not_text", "holds a NUL character, which no text has: take it out"
    if not is_text(text):
        return "not_utf8", "is not UTF-8: save the file as UTF-8"
    return None


def is_text(text: str) -> bool:
    """Whether a text can be written down: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
