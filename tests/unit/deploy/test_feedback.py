"""adapterloop feedback: what it asks of the gateway, and what it tells."""

from __future__ import annotations

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
