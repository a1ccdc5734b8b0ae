"""The option `--worker` of the commands that start or set up one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.cli import cli
from deploy.commands.context import configuration


@pytest.fixture
def no_worker_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option sets a variable, for the processes that are started too."""
    monkeypatch.setenv("ADAPTERLOOP_LOCAL_WORKER__KIND", "vllm")


@pytest.mark.usefixtures("no_worker_kind")
@pytest.mark.parametrize("command", ["up", "demo", "setup"])
@pytest.mark.parametrize(
    ("option", "workers", "words"),
    [
        ("ollama", "", "'ollama' is not one of 'vllm', 'llamacpp'"),
        ("llamacpp", "http://gpu-1:8001", "names workers that already run"),
    ],
)
def test_a_worker_that_cannot_be_meant_is_refused_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    option: str,
    workers: str,
    words: str,
) -> None:
    monkeypatch.setenv("ADAPTERLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTERLOOP_WORKERS", workers)
    result = CliRunner().invoke(cli, [command, "--worker", option])
    assert result.exit_code != 0
    assert words in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("no_worker_kind")
def test_the_option_wins_over_the_configuration_and_goes_with_the_children() -> None:
    assert configuration("llamacpp").local_worker.kind == "llamacpp"
    assert configuration().local_worker.kind == "llamacpp"


@pytest.mark.usefixtures("no_worker_kind")
def test_graphics_cards_are_for_vllm() -> None:
    result = CliRunner().invoke(cli, ["setup", "--gpu", "--worker", "llamacpp"])
    assert (result.exit_code, "--gpu is for" in result.output) == (1, True)
