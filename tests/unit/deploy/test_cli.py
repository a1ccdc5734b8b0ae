from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.cli import cli
from deploy.compose import EXAMPLES, gateway_settings
from deploy.config import load
from gateway.registry.service import Registry
from gateway.registry.snapshot import WorkerSpec

HEAVY = ("torch", "transformers", "sqlalchemy", "fastapi", "aiohttp", "httpx", "alembic")


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom deploy.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in run.stdout
    for name in ("up", "setup", "doctor", "keys", "adapters", "worker", "migrate"):
        assert name in run.stdout


@pytest.mark.parametrize("name", cli.list_commands(None))  # type: ignore[arg-type]
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_config_check_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("port: 8000\nprot: 1\n", encoding="utf-8")
    result = CliRunner().invoke(cli, ["config", "check", str(path)])
    assert (result.exit_code, result.output) == (1, f"{path}:2: prot: no such setting\n")


def test_config_show_is_a_file_that_checks(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["config", "show"]).output
    path = tmp_path / "shown.yaml"
    path.write_text(shown, encoding="utf-8")
    result = CliRunner().invoke(cli, ["config", "check", str(path)])
    assert result.output == f"{path}: ok\n"


def test_keys_without_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path / "home"))
    run = CliRunner().invoke
    assert run(cli, ["migrate"]).exit_code == 0
    secret = run(cli, ["keys", "create", "--owner", "shop", "--alias", "support"]).output.strip()
    listed = run(cli, ["keys", "list"]).output
    assert secret.startswith("sk-")
    assert secret not in listed
    assert "support  shop" in listed
    number = listed.split()[0]
    limited = run(cli, ["keys", "limit", number, "--priority", "high"]).output
    assert limited.endswith("high priority\n")
    assert "high priority" in run(cli, ["keys", "list"]).output
    assert run(cli, ["keys", "limit", number, "--priority", "urgent"]).exit_code == 2
    assert run(cli, ["keys", "revoke", number]).exit_code == 0
    assert "revoked" in run(cli, ["keys", "list"]).output
    assert run(cli, ["keys", "revoke", "99"]).exit_code == 1


def test_who_changes_the_base_model_hears_which_versions_fall_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERLOOP_MODEL", "org/SmolLM2-135M-Instruct")
    run = CliRunner().invoke
    assert run(cli, ["migrate"]).output == "the database is up to date\n"
    registry = Registry.from_settings(gateway_settings(load()))
    registry.register("default", "support", EXAMPLES / "support-1")
    registry.close()
    monkeypatch.setenv("ADAPTERLOOP_MODEL", "org/Llama-4")
    for command in ("migrate", "doctor"):
        assert "so these get no calls: support@1;" in run(cli, [command]).output


def test_keys_are_limited_and_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path / "home"))
    run = CliRunner().invoke
    run(cli, ["migrate"])
    limits = ["--requests-per-minute", "60", "--token-budget", "5000", "--budget-period", "day"]
    secret = run(cli, ["keys", "create", "--owner", "shop", *limits]).output.strip()
    assert "shop  60 requests/min, 5000 tokens/day\n" in run(cli, ["keys", "list"]).output
    limits = ["--tokens-per-minute", "9000", "--max-parallel", "8"]
    limited = run(cli, ["keys", "limit", "1", *limits])
    assert limited.output == f"{secret[:12]}…  9000 tokens/min, 8 calls at once\n"
    rotated = run(cli, ["keys", "rotate", "1", "--hours", "48"]).output.strip()
    assert rotated.startswith("sk-")
    old, new = run(cli, ["keys", "list"]).output.splitlines()
    assert "until 20" in old
    assert "valid" in new
    assert new.endswith("9000 tokens/min, 8 calls at once")
    assert run(cli, ["keys", "limit", "1"]).output.endswith("no limits\n")
    assert "tokens/min" not in run(cli, ["keys", "list"]).output  # nor of the rotated one
    refused = run(cli, ["keys", "create", "--evaluation", "--token-budget", "5"])
    assert refused.exit_code == 1
    assert refused.output == "A key for evaluation is not limited: leave out token_budget.\n"
    for arguments in (["rotate", "9"], ["limit", "9"]):
        assert run(cli, ["keys", *arguments]).output == "There is no such key.\n"
    for arguments in (["create", "--token-budget", "0"], ["limit", "1", "--budget-period", "year"]):
        assert run(cli, ["keys", *arguments]).exit_code == 2


def test_adapters_without_keys_say_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path))
    result = CliRunner().invoke(cli, ["adapters", "list"])
    assert result.exit_code == 1
    assert "adapterloop up" in result.output


def test_doctor_tells_what_workers_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path / "home"))
    CliRunner().invoke(cli, ["migrate"])
    registry = Registry.from_settings(gateway_settings(load()))
    left_out = (("support@3-1a2b3c4d", "of another family"),)
    registry.upsert_worker(WorkerSpec("w1", "http://w1", "llamacpp", left_out=left_out))
    registry.close()
    told = CliRunner().invoke(cli, ["doctor"]).output
    assert "w1 runs without support@3-1a2b3c4d: of another family" in told
