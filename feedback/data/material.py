"""What imported rows and reviewed answers bring to a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        """Learn the slices from the golden set, and from imported rows."""
        slices = {normal(row["instruction"]): row["slice"] for row in tickets}
        slices.update({normal(instruction): slice_ for instruction, _, slice_ in golden})
        return cls(slices)


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
    """Make a candidate of a reviewed answer, or say why it is none ("" where nobody said so)."""
    if row["verdict"] in ("unsafe", "skip"):
        return str(row["verdict"])
    asked = question_of(row["messages"])
    if isinstance(asked, str):
        return asked
    instruction, question = asked
    origin: Origin = "correction" if row["verdict"] == "wrong" else "accepted"
    if origin == "correction":
        if not row["correction"]:
            return "no_correction"
        output = str(row["correction"])
    else:
        output = answer_of(row["choices"])
        if not output:
            return "no_text"
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


def question_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str] | str:
    """Give instruction and input of a conversation, or why it has no such two."""
    system, asked = [], []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str):
            return "no_text"
        match message.get("role"):
            case "system" | "developer":
                system.append(content)
            case "user":
                asked.append(content)
            case _:
                return "several_turns"
    if len(asked) != 1:
        return "several_turns"
    return "\n\n".join(system), asked[0]


def answer_of(choices: Sequence[Mapping[str, Any]]) -> str:
    """Give the text of the first choice."""
    first = min(choices, key=lambda choice: choice["index"], default=None)
    return str(first["content"] or "") if first is not None else ""
