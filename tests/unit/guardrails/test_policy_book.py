"""Policies: what a file may say, and how it is read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guardrails.errors import PolicyError
from guardrails.policy import GuardRule, Policy, default_policy
from guardrails.policy_book import PolicyBook, parse_policies

FILE = """
default:
  guards:
    - {guard: toxicity, stage: output, threshold: 0.9, action: block}
aliases:
  support: {guards: []}
keys:
  key_1:
    name: strict
    guards:
      - {guard: toxicity, stage: output, threshold: 0.5, action: block}
"""


def write(path: Path, text: str, turn: int) -> None:
    path.write_text(text, "utf-8")
    os.utime(path, (turn, turn))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    write(path, FILE, 1)
    return path


def test_a_key_goes_before_an_alias_and_an_alias_before_the_default(file: Path) -> None:
    book = PolicyBook(file)
    assert book.policy_for("support", "key_1").name == "strict"
    assert book.policy_for("support", "key_2").name == "alias:support"
    assert book.policy_for("support").guards == ()
    assert book.policy_for("other").guards[0].threshold == 0.9
    assert book.policy_for().name == "default"


def test_what_holds_is_told_the_default_first(file: Path) -> None:
    found = [(held.scope, held.of, held.policy.name) for held in PolicyBook(file).held()]
    assert found == [
        ("default", None, "default"),
        ("alias", "support", "alias:support"),
        ("key", "key_1", "strict"),
    ]


def test_a_problem_is_told_without_the_folder(file: Path) -> None:
    book = PolicyBook(file)
    assert book.problem is None
    write(file, "default: {guards: 1}", 2)
    with pytest.raises(PolicyError):
        book.refresh()
    assert book.problem is not None
    assert book.problem.startswith("policy.yaml, line 1: default.guards")


def test_without_a_file_the_built_in_policy_holds() -> None:
    book = PolicyBook()
    assert book.policy_for("any", "key") == default_policy()
    assert book.refresh() is False


def test_the_shipped_file_says_what_is_built_in(repository: Path) -> None:
    shipped = PolicyBook(repository / "deploy" / "policies" / "default.yaml")
    assert shipped.policy_for().version == default_policy().version


def test_a_changed_file_is_read_again(file: Path) -> None:
    book = PolicyBook(file)
    before = book.policy_for().version
    assert book.refresh() is False
    write(file, FILE.replace("0.9", "0.8"), 2)
    assert book.refresh() is True
    assert book.policy_for().guards[0].threshold == 0.8
    assert book.policy_for().version != before


def test_a_mistake_keeps_the_old_policies_until_it_is_mended(file: Path) -> None:
    book = PolicyBook(file)
    write(file, FILE.replace("0.9", "9"), 2)
    with pytest.raises(PolicyError, match=r"line 4: default\.guards\.0\.threshold"):
        book.refresh()
    assert book.error is not None
    assert book.policy_for().guards[0].threshold == 0.9
    assert book.refresh() is False
    write(file, FILE, 3)
    assert book.refresh() is True
    assert book.error is None


def test_a_file_that_goes_away_keeps_the_old_policies(file: Path) -> None:
    book = PolicyBook(file)
    file.unlink()
    with pytest.raises(PolicyError):
        book.refresh()
    assert book.policy_for("support").name == "alias:support"


def test_a_mistake_at_start_is_an_error(file: Path) -> None:
    write(file, "default: [", 2)
    with pytest.raises(PolicyError, match="line 1"):
        PolicyBook(file)


RULE = "default:\n  guards:\n    - {guard: %s}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RULE % "toxicity, stage: output, action: redact", "line 3.*whole sentences"),
        (RULE % "nonsense, stage: output, action: flag", "line 3.*toxicity"),
        (RULE % "phrases, stage: output, action: block", "needs it"),
        (RULE % "phrases, stage: output, action: block, phrases: [' ']", "blank"),
        (RULE % "personal_data, stage: output, action: flag, labels: [SHOE]", "has no SHOE"),
        (RULE % "names, stage: output, action: flag, exempt: ['(']", "no regular expression"),
        ("defualt: {guards: []}\n", "line 1: defualt"),
        ("- 1\n", "line 1"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, message: str) -> None:
    with pytest.raises(
        PolicyError, match=f"(?s)^file, {message}" if "line" in message else message
    ):
        parse_policies(text, "file")


def test_an_empty_file_changes_nothing() -> None:
    assert parse_policies("").default is None


def test_the_version_is_a_digest_of_what_a_policy_says() -> None:
    rule = GuardRule(guard="toxicity", stage="input", threshold=0.9, action="flag")
    one, two = Policy(name="a", guards=(rule,)), Policy(name="b", guards=(rule,))
    assert one.version == two.version != Policy().version
