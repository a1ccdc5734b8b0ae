"""Rows of a data set, and the chat messages they become.

The same messages are built for training, for evaluation and for a fingerprint, and a caller of the
gateway sends them too: the instruction is the system message. It is always given, because a chat
template may insert a system prompt of its own where none is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trainer.errors import NoRows, RowInvalid

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One verified answer; `slice` and `template_id` say where it belongs and how it was made."""

    id: str
    instruction: str
    input: str
    output: str
    slice: str = ""
    template_id: str = ""


REQUIRED = ("id", "instruction", "input", "output")
NAMES = frozenset(field.name for field in fields(Row))


def parse_row(value: Mapping[str, Any]) -> Row:
    """Make a Row of a decoded JSON object, ignoring unknown keys and nulls; raise RowInvalid."""
    if value.get("erased"):
        raise RowInvalid("this row was erased: train on a new data set, as the next refresh does")
    missing = [name for name in REQUIRED if not value.get(name)]
    if missing:
        raise RowInvalid(f"missing or empty: {', '.join(missing)}")
    known = {name: given for name, given in value.items() if name in NAMES and given is not None}
    wrong = [name for name, text in known.items() if not isinstance(text, str)]
    if wrong:
        raise RowInvalid(f"not a string: {', '.join(sorted(wrong))}")
    return Row(**known)


def read_rows(path: Path) -> list[Row]:
    """Read a JSONL file of rows; raise RowInvalid naming the line, or NoRows."""
    rows = list(_parse_lines(path))
    if not rows:
        raise NoRows(f"{path.name} holds no rows")
    return rows


def _parse_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise RowInvalid("not a JSON object")
                yield parse_row(value)
            except (ValueError, RowInvalid) as error:
                raise RowInvalid(f"{path.name}, line {number}: {error}") from error


def dump_rows(rows: Iterable[Row]) -> str:
    """Write rows as JSONL: same rows, same bytes."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def to_prompt(row: Row) -> list[Message]:
    """Give the messages that ask for the row's answer."""
    return [
        {"role": "system", "content": row.instruction},
        {"role": "user", "content": row.input},
    ]


def to_messages(row: Row) -> list[Message]:
    """Give the whole conversation, the answer last."""
    return [*to_prompt(row), {"role": "assistant", "content": row.output}]


def to_example(row: Row) -> dict[str, list[Message]]:
    """Give TRL's conversational prompt and completion, whose loss falls on the answer only."""
    prompt = to_prompt(row)
    return {"prompt": prompt, "completion": to_messages(row)[len(prompt) :]}
