"""What imported rows and reviewed answers bring to a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from feedback.data.rows import normal, row_digest

Origin = Literal["import", "correction", "accepted"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that could be trained on; `at` is when it was imported or reviewed."""

    instruction: str
    input: str
    output: str
    slice: str
    origin: Origin
    lineage: Mapping[str, Any]
    at: float
    by: str = ""

    @property
    def question(self) -> tuple[str, str]:
        """What two rows have in common that ask the same."""
        return normal(self.instruction), normal(self.input)

    @property
    def digest(self) -> str:
        """Name the row by its content."""
        return row_digest(self.instruction, self.input, self.output, self.slice)


@dataclass(frozen=True, slots=True)
class Material:
    """Which slice rows with an instruction belong to, where that is known."""

    slices: Mapping[str, str]

    @classmethod
    def of(
        cls, golden: Iterable[tuple[str, str, str]], tickets: Iterable[Mapping[str, Any] | Any]
    ) -> Self:
        """Learn the slices from imported rows and, which goes before, from the golden set.

        Where an instruction has several slices, the first by name is taken.
        """
        imported = {(normal(row["instruction"]), row["slice"]) for row in tickets}
        verified = {(normal(instruction), slice_) for instruction, _, slice_ in golden}
        ordered = (*sorted(imported, reverse=True), *sorted(verified, reverse=True))
        return cls({instruction: slice_ for instruction, slice_ in ordered if slice_})


def in_force(reviews: Iterable[Any]) -> Iterator[Any]:
    """Give the newest verdict on each item, and with a correction those of other reviewers.

    `reviews` hold, of each item and reviewer, the newest verdict that was not undone.
    """
    by_item: dict[int, list[Any]] = defaultdict(list)
    for row in reviews:
        by_item[row["item_id"]].append(row)
    for same in by_item.values():
        newest = max(same, key=lambda row: row["review_id"])
        yield newest
        if _corrects(newest):
            yield from (row for row in same if row is not newest and _corrects(row))


def _corrects(row: Any) -> bool:
    return row["verdict"] == "wrong" and bool(row["correction"])


def from_ticket(row: Any) -> Candidate:
    """Make a candidate of an imported row."""
    return Candidate(
        row["instruction"],
        row["input"],
        row["output"],
        row["slice"],
        "import",
        {"ticket_id": row["id"], "source": row["source"]},
        row["created_at"],
    )


def from_review(row: Any, material: Material) -> Candidate | str:
    """Make a candidate of a reviewed answer, or say why it is none."""
    if row["verdict"] in ("unsafe", "skip"):
        return str(row["verdict"])
    if row["verdict"] == "wrong" and not row["correction"]:
        return "no_correction"
    if _uses_tools(row):
        return "not_text"
    asked = question_of(row["messages"])
    if isinstance(asked, str):
        return asked
    instruction, question = asked
    origin: Origin = "correction" if row["verdict"] == "wrong" else "accepted"
    output = str(row["correction"]) if origin == "correction" else answer_of(row["choices"])
    if not output:
        return "not_text"
    lineage = {name: row[name] for name in ("response_id", "review_id", "version")}
    return Candidate(
        instruction,
        question,
        output,
        material.slices.get(normal(instruction), ""),
        origin,
        lineage,
        row["created_at"],
        row["reviewer"],
    )


def _uses_tools(row: Any) -> bool:
    # What is asked with tools at hand is another question than the same words without.
    offered = any((row["parameters"] or {}).get(name) for name in ("tools", "functions"))
    return offered or any(choice.get("tool_calls") for choice in row["choices"])


def question_of(messages: Sequence[Any]) -> tuple[str, str] | str:
    """Give instruction and input of a conversation, or why it has no such two."""
    system, asked = [], []
    for message in messages:
        text = _text_of(message)
        if text is None:
            return "not_text"
        match message.get("role"):
            case "system" | "developer":
                system.append(text)
            case "user":
                asked.append(text)
            case _:
                return "several_turns"
    if len(asked) != 1:
        return "several_turns"
    return "\n\n".join(system), asked[0]


def _text_of(message: Any) -> str | None:
    """Give a message's text, also where it is its only part; None where it is no text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text")
    return content if isinstance(content, str) else None


def answer_of(choices: Sequence[Mapping[str, Any]]) -> str:
    """Give the text of the first choice."""
    first = min(choices, key=lambda choice: choice["index"], default=None)
    return str(first["content"] or "") if first is not None else ""
