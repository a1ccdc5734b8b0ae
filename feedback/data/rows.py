"""Rows as people bring them: instruction, input and output, from JSON lines or CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_TEXT = 100_000
FIELDS = ("instruction", "input", "output", "slice", "split_key", "template_id")
REQUIRED = ("instruction", "input", "output")


@dataclass(frozen=True, slots=True)
class GivenRow:
    """A row that can be used; `line` is where it stands, from 1."""

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
    """A row that cannot be used: where it stands, why in a word, and what to do about it."""

    line: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where each of our fields comes from: a column's name, or the same text for all rows."""

    columns: Mapping[str, str]
    constants: Mapping[str, str]


def row_digest(*parts: str) -> str:
    """Give the SHA-256 of several texts, none of which can run into the next."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def normal(text: str) -> str:
    """Give a text as it counts for duplicates: words in small letters, single spaces."""
    return " ".join(_WORD.findall(text.casefold()))


_WORD = re.compile(r"\w+")


def read_jsonl(text: str, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    """Read rows from JSON lines; blank lines are passed over."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            yield BadRow(number, "not_json", f"line {number} is not JSON: {error}")
            continue
        if not isinstance(value, dict):
            yield BadRow(number, "not_json", f"line {number} is not a JSON object")
            continue
        yield _row(number, value, mapped)


def read_csv(text: str, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    """Read rows from CSV whose first line names the columns."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for value in reader:
            if None in value:
                message = f"line {reader.line_num} has more cells than the first line has names"
                yield BadRow(reader.line_num, "too_many_cells", message)
            else:
                yield _row(reader.line_num, value, mapped)
    except csv.Error as error:
        line = reader.line_num
        yield BadRow(
            line, "not_csv", f"line {line} is not CSV, and nothing after it was read: {error}"
        )


def _row(line: int, value: Mapping[str, Any], mapped: Mapped) -> GivenRow | BadRow:
    fields: dict[str, str] = dict(mapped.constants)
    for name in FIELDS:
        column = mapped.columns.get(name, name)
        given = value.get(column)
        if given is None or name in fields:
            continue
        if not isinstance(given, str):
            message = f"line {line}: {column!r} is not a text but {type(given).__name__}"
            return BadRow(line, "not_text", message)
        fields[name] = given
    return check(line, fields, mapped)


def check(line: int, fields: Mapping[str, str], mapped: Mapped) -> GivenRow | BadRow:
    """Make a row of texts, or say which field is at fault."""
    for name in REQUIRED:
        if not fields.get(name, "").strip():
            column = mapped.columns.get(name, name)
            message = f"line {line}: {column!r} is missing or empty; give it, or leave the row out"
            return BadRow(line, f"no_{name}", message)
    for name, text in fields.items():
        if len(text) > MAX_TEXT:
            return BadRow(line, "too_long", f"line {line}: {name!r} is longer than {MAX_TEXT}")
        if "\0" in text or not _is_text(text):
            message = f"line {line}: {name!r} holds a character that no text has (NUL, surrogate)"
            return BadRow(line, "not_text", message)
    return GivenRow(line, **fields)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
