"""adapterloop feedback: what it asks of the gateway, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from deploy.cli import cli

from .test_cli_adapters import Gateway, gateway

__all__ = ["gateway"]

DIGEST = "ab" * 32
DATASET = {"digest": DIGEST, "alias": "support", "rows": 2}
ROWS = b'{"id": "1"}\n{"id": "\xc3\xa9"}\n'


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["feedback", *arguments])


@pytest.fixture
def datasets(gateway: Gateway) -> Gateway:
    gateway.answers |= {
        "POST /admin/v1/datasets": [httpx.Response(201, json=DATASET)],
        "GET /admin/v1/datasets": [httpx.Response(200, json={"data": [DATASET]})],
        f"GET /admin/v1/datasets/{DIGEST}": [httpx.Response(200, json=DATASET)],
        f"GET /admin/v1/datasets/{DIGEST}/rows": [httpx.Response(200, content=ROWS)],
    }
    return gateway


def test_import_tells_what_was_left_out(gateway: Gateway, tmp_path: Path) -> None:
    told = {
        "read": 3,
        "imported": 1,
        "scrubbed": 1,
        "dropped": {"golden": 1, "no_output": 1},
        "examples": [{"line": 2, "reason": "no_output", "message": "line 2: 'a' is missing"}],
    }
    gateway.answers["POST /admin/v1/imports/support"] = [httpx.Response(200, json=told)]
    path = tmp_path / "rows.csv"
    path.write_text("q,a\n", encoding="utf-8")
    more = ("--mapping", "input=q", "--mapping", "output=a", "--set", "instruction=Answer.")
    result = run("import", "support", str(path), *more, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "1 of 3 rows would be imported" in result.output
    assert "personal data replaced: 1" in result.output
    assert "left out, no_output: 1" in result.output
    assert "line 2: 'a' is missing" in result.output
    _, body = gateway.asked[-1]
    assert b'{"input": "q", "output": "a", "constants": {"instruction": "Answer."}}' in body
    assert b'filename="rows.csv"' in body


def test_import_refuses_what_is_no_mapping(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    result = run("import", "support", str(tmp_path / "rows.csv"), "--mapping", "input")
    assert (result.exit_code, gateway.asked) == (2, [])
    assert "'input' is not FIELD=VALUE" in result.output


@pytest.mark.parametrize("which", [(), ("--latest",), ("--digest", DIGEST)])
def test_export(datasets: Gateway, tmp_path: Path, which: tuple[str, ...]) -> None:
    out = tmp_path / "rows.jsonl"
    result = run("export", "support", *which, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == ROWS
    assert list(tmp_path.glob("*.part")) == []
    made = [asked for asked, _ in datasets.asked if asked.startswith("POST")]
    assert len(made) == (not which)
    assert run("export", "support", *which).stdout_bytes == ROWS


def test_export_refuses_what_is_not_there(datasets: Gateway, tmp_path: Path) -> None:
    refused = [
        (run("export", "facts", "--digest", DIGEST), 1, "a data set of support, not of facts"),
        (run("export", "support", "--latest", "--digest", DIGEST), 2, "exclude each other"),
    ]
    datasets.answers["GET /admin/v1/datasets"] = [httpx.Response(200, json={"data": []})]
    refused.append((run("export", "support", "--latest"), 1, "no data set of support yet"))
    gone = httpx.Response(404, json={"error": {"message": "There is no data set."}})
    datasets.answers[f"GET /admin/v1/datasets/{DIGEST}/rows"] = [gone]
    out = tmp_path / "rows.jsonl"
    last = run("export", "support", "--digest", DIGEST, "--out", str(out))
    refused.append((last, 1, "There is no data set."))
    for result, code, message in refused:
        assert (result.exit_code, message in result.output) == (code, True), result.output
    assert list(tmp_path.glob("rows*")) == []


def test_golden(gateway: Gateway, tmp_path: Path) -> None:
    told = {"digest": DIGEST, "items": 2, "slices": {"": 1, "facts": 1}}
    gateway.answers |= {
        "PUT /admin/v1/golden/support": [httpx.Response(200, json=told)],
        "GET /admin/v1/golden/support": [httpx.Response(200, content=ROWS)],
    }
    path = tmp_path / "golden.jsonl"
    path.write_bytes(ROWS)
    assert (
        "golden set of support: 2 items (1 -, 1 facts)"
        in run("golden", "support", str(path)).output
    )
    assert gateway.asked[-1] == ("PUT /admin/v1/golden/support", ROWS)
    assert run("golden", "support").stdout_bytes == ROWS


ERASED = {
    "id": None,
    "dry_run": True,
    "counts": {"answers": 3, "dataset_rows": 2},
    "datasets": [{"digest": DIGEST, "alias": "support", "erased_rows": 2, "created_at": 1.0}],
    "runs": [
        {"job_id": "job-1", "alias": "support", "state": "done", "dataset": DIGEST, "version": 8}
    ],
    "versions": [
        {"model": "support@8", "state": "serving", "dataset": DIGEST, "merged": False},
        {"model": "support@9", "state": "candidate", "dataset": None, "merged": True},
    ],
}
NAMED = ("--user", "alice", "--user", "bo", "--response", "chatcmpl-1", "--key", "7")


@pytest.fixture
def erasures(gateway: Gateway) -> Gateway:
    done = httpx.Response(200, json={**ERASED, "id": "erasure-1", "dry_run": False})
    gateway.answers["POST /admin/v1/erasures"] = [httpx.Response(200, json=ERASED), done]
    return gateway


def bodies(gateway: Gateway) -> list[dict[str, object]]:
    return [json.loads(body) for _, body in gateway.asked]


def test_erase_tells_counts_and_versions_and_asks_first(erasures: Gateway) -> None:
    arguments = ["feedback", "erase", *NAMED, "--reference", "REQ-7"]
    result = CliRunner().invoke(cli, arguments, input="y\n")
    assert result.exit_code == 0, result.output
    first, second = bodies(erasures)
    assert (first.pop("dry_run"), second.pop("dry_run")) == (True, False)
    assert first == second
    assert (first["users"], first["keys"], first["tickets"]) == (["alice", "bo"], [7], [])
    assert "would be erased" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    for line in (
        ["erased", "(erasure-1)"],
        ["dataset", "rows", "2"],
        [DIGEST[:12], "support", "2", "rows"],
        ["job-1", "support@8", "done", DIGEST[:12]],
        ["support@8", "serving", DIGEST[:12]],
        ["support@9", "candidate", "merged"],
    ):
        assert line in lines


def test_erase_changes_nothing_before_the_answer(erasures: Gateway) -> None:
    result = CliRunner().invoke(cli, ["feedback", "erase", *NAMED], input="n\n")
    assert (result.exit_code, len(erasures.asked)) == (1, 1)


@pytest.mark.parametrize("option", ["--dry-run", "--yes"])
def test_erase_as_json(erasures: Gateway, option: str) -> None:
    result = run("erase", *NAMED, option, "--json")
    assert json.loads(result.stdout) == ERASED
    assert [body["dry_run"] for body in bodies(erasures)] == [option == "--dry-run"]


TRUST = {
    "alias": "support",
    "method": "platt",
    "labels": {"audit": 30, "flagged": 12},
    "wrong": 9,
    "auroc": 0.81234,
    "auroc_minimum": 0.7,
    "brier": 0.1,
    "ece": None,
    "risk_coverage": [{"coverage": 0.5, "risk": 0.025}, {"coverage": 1.0, "risk": 0.2}],
    "missed": {"value": 0.1, "low": 0.05, "high": 0.2, "items": 30},
    "review": {"budget": 100, "seen": 400, "doubtful": 70, "audited": 18, "threshold": -0.5},
}


def test_confidence_of_every_alias_or_of_some(gateway: Gateway) -> None:
    bare = {**TRUST, "alias": "base", "labels": {}, "risk_coverage": [], "missed": None}
    gateway.answers |= {
        "GET /admin/v1/adapters": [
            httpx.Response(200, json={"data": [{"alias": "base"}, {"alias": "support"}]})
        ],
        "GET /admin/v1/confidence/base": [httpx.Response(200, json=bare)],
        "GET /admin/v1/confidence/support": [httpx.Response(200, json=TRUST)],
    }
    result = run("confidence")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.split("\n\n")
    assert "nothing was audited" in first
    assert [" ".join(line.split()) for line in second.splitlines()] == [
        "support",
        "method platt",
        "labels 42 (30 audit, 12 flagged), 9 wrong",
        "AUROC 0.812 (least sure token: 0.700)",
        "Brier, ECE 0.100, -",
        "missed errors 10.0% (5.0% to 20.0%), 30 audited",
        "review 70 doubtful and 18 audited of a budget of 100 a day; 400 answers",
        "doubtful below -0.500 (mean logprob)",
        "surest share wrong among them",
        "50% 2.5%",
        "100% 20.0%",
    ]
    assert json.loads(run("confidence", "support", "--json").stdout) == [TRUST]
