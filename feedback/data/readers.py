"""Reads rows out of the files that people bring, one after the other: JSON lines and CSV."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import msgspec

from feedback.data.rows import FIELDS, REQUIRED, BadRow, GivenRow, Mapped, given_row, is_text
from feedback.errors import Invalid

MAX_BYTES = 64 * 1024 * 1024
_SHOWN = 300


def read_jsonl(file: BinaryIO, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    """Read rows from JSON lines; blank lines are passed over."""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if text.strip():
            yield _json_row(number, text, mapped)


def _json_row(number: int, line: bytes, mapped: Mapped) -> GivenRow | BadRow:
    try:
        value = msgspec.json.decode(line.decode())
    except UnicodeDecodeError:
        message = f"line {number} is not UTF-8: save the file as UTF-8"
        return BadRow(number, "not_utf8", message)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"line {number} is not JSON: {error}; write one JSON object on each line"
        return BadRow(number, "not_json", message)
    if not isinstance(value, dict):
        message = f"line {number} is not a JSON object: write {{...}} with the fields of one row"
        return BadRow(number, "not_json", message)
    return given_row(number, value, mapped)


def read_csv(file: BinaryIO, mapped: Mapped) -> Iterator[GivenRow | BadRow]:
    """Read rows from CSV whose first line names the columns.

    Raises `Invalid`, before the first row, where a column is not there. After a line that is no
    CSV nothing is read: what seems to follow may be the inside of a cell.
    """
    # For the whole process; the file itself is bounded, and a long cell is named by its row.
    csv.field_size_limit(MAX_BYTES)
    # Bytes that are no UTF-8 become halves of surrogate pairs, by which their row is named.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    records = _records(reader)
    try:
        _, names = next(records, (1, ()))
        _check_columns(names, mapped)
        for line, cells in records:
            if len(cells) > len(names):
                message = f"line {line} has more cells than the first line: put commas in quotes"
                yield BadRow(line, "too_many_cells", message)
            else:
                yield given_row(line, dict(zip(names, cells, strict=False)), mapped)
    except csv.Error as error:
        line = reader.line_num
        message = f"line {line} is not CSV, and nothing after it was read: {error}"
        yield BadRow(line, "not_csv", message)
    finally:
        text.detach()


def _records(reader: Any) -> Iterator[tuple[int, Sequence[str]]]:
    """Give each record with the line that it begins on; blank lines are passed over."""
    while True:
        line = reader.line_num + 1
        cells = next(reader, None)
        if cells is None:
            return
        if cells:
            yield line, cast("Sequence[str]", cells)


def _check_columns(names: Sequence[str], mapped: Mapped) -> None:
    if not names:
        raise Invalid("The file is empty: its first line names the columns.", param="file")
    if not all(is_text(name) and "\0" not in name for name in names):
        raise Invalid("Line 1 is not UTF-8: save the file as UTF-8.", param="file")
    for field in FIELDS:
        column, needed = mapped.column(field), field in REQUIRED or field in mapped.columns
        if field in mapped.constants:
            continue
        if needed and column not in names:
            there = ", ".join(names)[:_SHOWN]
            raise Invalid(
                f"There is no column {column!r} for {field!r}; the first line names: {there}. Say"
                " in `mapping` which column it comes from.",
                param="mapping",
            )
        if names.count(column) > 1:
            raise Invalid(f"Two columns are called {column!r}: rename one.", param="file")
