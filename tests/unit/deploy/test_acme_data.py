from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.examples.acme import generate, tickets
from trainer.rows import Row, dump_rows, read_rows

DATA = Path(generate.__file__).parent / "data"
FILES = ("train", "dev", "golden")


@pytest.fixture(scope="module")
def files() -> dict[str, list[Row]]:
    return {name: read_rows(DATA / f"{name}.jsonl") for name in FILES}


def test_the_generator_reproduces_the_committed_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(generate.main, ["--out", str(tmp_path), "--seed", "7"])

    assert result.exit_code == 0, result.output
    for name in FILES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (DATA / f"{name}.jsonl").read_bytes()


def test_another_seed_gives_other_tickets() -> None:
    assert dump_rows(generate.build(8)["train"]) != dump_rows(generate.build(7)["train"])


def test_counts(files: dict[str, list[Row]]) -> None:
    slices = {name: Counter(row.slice for row in rows) for name, rows in files.items()}

    assert slices["golden"] == {"triage": 200, "facts": 60}
    assert slices["train"]["triage"] == 500
    assert slices["train"]["facts"] >= 100
    assert len(files["train"]) >= 600


def test_wordings_are_many(files: dict[str, list[Row]]) -> None:
    wordings = {
        name: {row.template_id for row in rows if row.slice == "triage"}
        for name, rows in files.items()
    }

    assert len(wordings["train"]) >= 60
    assert len(wordings["golden"]) >= 25


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(FILES, 2)))
def test_files_share_no_wording_and_no_input(
    files: dict[str, list[Row]], one: str, other: str
) -> None:
    for name in ("template_id", "input", "id"):
        shared = {getattr(row, name) for row in files[one]} & {
            getattr(row, name) for row in files[other]
        }
        assert not shared


def test_ticket_texts_of_the_splits_differ_not_only_their_names() -> None:
    splits = [
        {text for texts in bodies.values() for text in texts}
        for bodies in (tickets.TRAIN, tickets.DEV, tickets.GOLDEN)
    ]

    assert all(not one & other for one, other in itertools.combinations(splits, 2))


def test_no_input_occurs_twice(files: dict[str, list[Row]]) -> None:
    for rows in files.values():
        assert len({row.input for row in rows}) == len(rows)
        assert len({row.id for row in rows}) == len(rows)


def test_triage_answers_are_compact_json_true_to_the_ticket(files: dict[str, list[Row]]) -> None:
    for row in itertools.chain.from_iterable(files.values()):
        if row.slice != "triage":
            continue
        answer = json.loads(row.output)
        assert list(answer) == ["product", "issue", "priority", "order_id"]
        assert row.output == json.dumps(answer, separators=(",", ":"))
        assert answer["priority"] in tickets.PRIORITIES
        assert answer["issue"] in row.template_id
        assert any(name in row.input for name in tickets.PRODUCTS[answer["product"]])
        if answer["order_id"] is None:
            assert "AC-" not in row.input
        else:
            assert row.input.count(answer["order_id"]) == 1


def test_golden_facts_are_taught_in_other_words(files: dict[str, list[Row]]) -> None:
    taught = {row.output for row in files["train"] if row.slice == "facts"}
    golden = {row.output for row in files["golden"] if row.slice == "facts"}

    assert golden <= taught


@pytest.mark.parametrize(
    ("issue", "cue", "priority"),
    [
        ("outage", None, "high"),
        ("outage", "raise", "urgent"),
        ("slow", "raise", "high"),
        ("cancel", "raise", "normal"),
        ("data_loss", "calm", "low"),
        ("how_to", "alarm", "urgent"),
    ],
)
def test_priority_follows_the_rule(issue: str, cue: str | None, priority: str) -> None:
    assert generate.priority_of(issue, cue) == priority


def test_no_synonym_stands_for_two_products() -> None:
    names = [name for synonyms in tickets.PRODUCTS.values() for name in synonyms]

    assert len(set(names)) == len(names)
