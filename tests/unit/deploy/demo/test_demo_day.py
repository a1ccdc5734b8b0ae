from __future__ import annotations

import pytest

from deploy.demo.api import Said
from deploy.demo.day import auroc
from deploy.demo.report import Report
from deploy.demo.traffic import Swap
from trainer.rows import Row

ROW = Row("r", "i", "q", "a")


def answer(confidence: float | None, right: bool) -> tuple[Said, bool]:
    return Said(ROW, "id", "support@1", "", confidence), right


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([answer(-0.1, True), answer(-0.9, False)], 1.0),
        ([answer(-0.9, True), answer(-0.1, False)], 0.0),
        ([answer(-0.5, True), answer(-0.5, False)], 0.5),
        ([answer(-0.1, True), answer(-0.5, True), answer(-0.3, False)], 0.5),
        ([answer(-0.1, True), answer(None, False)], 0.5),
    ],
)
def test_auroc_is_the_share_of_pairs_in_the_right_order(
    answers: list[tuple[Said, bool]], expected: float
) -> None:
    assert auroc(answers) == expected


def test_an_answer_of_a_version_that_is_not_due_is_counted() -> None:
    swap = Swap()
    for model, failed in (("support@1", False), ("support@2", False), ("base", False), ("", True)):
        swap.note(model, failed=failed, due={"support@1", "support@2"})
    assert (swap.requests, swap.failed, swap.wrong_version) == (4, 1, 1)


def test_the_table_tells_what_the_file_holds() -> None:
    report = Report()
    report.add_golden("base", {"triage": {"n": 200, "exact_match": 0.0, "f1": 0.1}})
    report.add_golden("base", {"triage": {"n": 200, "exact_match": 1.0, "f1": 1.0}})  # known
    figures = {"difference": 0.5, "low": 0.43, "high": 0.57, "p": 1e-9, "n": 200}
    slices = {"triage": figures}
    report.add_gate({"candidate": "a@1", "against": "base", "verdict": "PASS", "slices": slices})
    table = report.table()
    assert "base             triage            0.000  0.100     200" in table
    assert "+0.500   +0.430 to +0.570" in table
    assert report.gates[0]["slices"]["triage"].keys() == {"difference", "low", "high", "p"}
