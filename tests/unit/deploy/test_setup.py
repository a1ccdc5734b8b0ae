from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy import setup as module
from deploy.config import Config, LocalWorker
from deploy.model import REQUIRED_FILES
from deploy.progress import Progress
from deploy.setup import STAMP, Setup, SetupFailed, worker_python


class Runs:
    """Stands in for the tools: records command lines, fails those that hold a given word."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: list[str] = []
        self.failing: dict[str, str] = {}

    def __call__(self, _setup: Setup, label: str, command: Sequence[str]) -> None:
        line = " ".join(command)
        self.labels.append(label)
        self.lines.append(line)
        if "-m venv" in line:
            environment = Path(command[-1])
            (environment / "bin").mkdir(parents=True)
            (environment / "pyvenv.cfg").touch()
        for word, output in self.failing.items():
            if word in line:
                raise SetupFailed(f"{label} failed:\n{output}")

    def having(self, word: str) -> list[str]:
        return [line for line in self.lines if word in line]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    (tmp_path / "app").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "app"))
    monkeypatch.setattr(module, "_platform", lambda: module.LOCKED_PLATFORM)
    runs = Runs()
    monkeypatch.setattr(Setup, "_run", lambda *arguments: runs(*arguments))
    return runs


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(home=tmp_path / "home")
    model = module.default_model(config)
    model.mkdir(parents=True)
    for name in REQUIRED_FILES:
        (model / name).touch()
    return config


@pytest.fixture
def setup() -> Setup:
    return Setup(Progress(io.StringIO()))


def test_all_is_made_once(runs: Runs, config: Config, setup: Setup) -> None:
    setup.run(config)
    assert setup.is_done(config)
    assert len(runs.having("torch-cpu.txt")) == 2
    assert len(runs.having("worker-cpu.txt")) == 1
    assert all("--require-hashes" in line for line in runs.having(" install "))
    runs.lines.clear()
    setup.run(config)
    assert runs.lines == []


def test_torch_goes_into_both_environments(runs: Runs, config: Config, setup: Setup) -> None:
    setup.run(config)
    pythons = {line.split()[0] for line in runs.having("torch-cpu.txt")}
    assert pythons == {sys.executable, str(worker_python(config))}


def test_an_unfinished_worker_environment_is_made_anew(
    runs: Runs, config: Config, setup: Setup
) -> None:
    runs.failing["worker-cpu.txt"] = "killed"
    with pytest.raises(SetupFailed):
        setup.run(config)
    left = worker_python(config).parent / "left-over"
    left.touch()
    runs.failing.clear()
    setup.run(config)
    assert not left.exists()
    assert setup.is_done(config)


def test_a_changed_lock_makes_the_worker_environment_anew(
    runs: Runs, config: Config, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.run(config)
    lock = tmp_path / "worker-cpu.txt"
    lock.write_text("other==1", encoding="utf-8")
    monkeypatch.setattr(module, "WORKER_LOCK", lock)
    runs.lines.clear()
    setup.run(config)
    assert runs.having("-m venv")
    assert not runs.having(f"{sys.executable} -m pip")


def test_a_folder_that_is_no_environment_is_left_alone(
    runs: Runs, config: Config, setup: Setup
) -> None:
    precious = worker_python(config).parent.parent / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    with pytest.raises(SetupFailed, match="in the way"):
        setup.run(config)
    assert precious.exists()


def test_without_the_cpu_build_plain_torch_is_taken_and_said(runs: Runs, config: Config) -> None:
    runs.failing["torch-cpu.txt"] = "ERROR: No matching distribution found"
    said = io.StringIO()
    Setup(Progress(said)).run(config)
    assert len([line for line in runs.having(" torch==") if "+cpu" not in line]) == 2
    assert "ADAPTERLOOP_TORCH_INDEX" in said.getvalue()


def test_a_wheel_with_another_hash_is_refused(runs: Runs, config: Config, setup: Setup) -> None:
    runs.failing["torch-cpu.txt"] = "THESE PACKAGES DO NOT MATCH THE HASHES"
    with pytest.raises(SetupFailed, match="HASHES"):
        setup.run(config)
    assert not (Path(sys.prefix) / STAMP).exists()


def test_a_named_index_is_asked(runs: Runs, config: Config) -> None:
    Setup(Progress(io.StringIO()), torch_index="http://index.test/cpu").run(config)
    assert all("--index-url http://index.test/cpu" in x for x in runs.having("torch-cpu.txt"))


def test_a_gpu_gets_the_other_package_and_no_cpu_torch(runs: Runs, config: Config) -> None:
    gpu = Setup(Progress(io.StringIO()), gpu=True)
    gpu.run(config)
    assert runs.having(" vllm==")
    assert runs.having(" torch==2")
    assert not runs.having("cpu")


def test_a_gpu_environment_stays_on_later_starts(runs: Runs, config: Config, setup: Setup) -> None:
    Setup(Progress(io.StringIO()), gpu=True).run(config)
    runs.lines.clear()
    setup.run(config)
    assert not runs.having("-m venv")


def test_workers_that_run_elsewhere_need_no_environment(runs: Runs, config: Config) -> None:
    remote = Config(home=config.home, workers="http://gpu-1:8001")
    setup = Setup(Progress(io.StringIO()))
    setup.run(remote)
    assert setup.is_done(remote)
    assert not runs.having("-m venv")


@pytest.fixture
def llamacpp(config: Config) -> Config:
    return Config(home=config.home, local_worker=LocalWorker(kind="llamacpp"))


def test_llama_cpp_is_built_where_it_is_asked_for_and_vllm_is_not(
    runs: Runs, llamacpp: Config, config: Config, setup: Setup
) -> None:
    setup.run(llamacpp)
    assert setup.is_done(llamacpp)
    assert not setup.is_done(config)
    assert not runs.having("worker-cpu.txt")
    [tools] = runs.having("llamacpp-tools.txt")
    [build] = runs.having("llamacpp.txt")
    assert "--require-hashes" in tools
    assert "--require-hashes" in build
    assert "--no-build-isolation" in build
    assert "-llamacpp/bin/python -m pip" in build
    assert runs.having("llama-server --version")
    runs.lines.clear()
    setup.run(llamacpp)
    assert runs.lines == []


def test_the_wait_for_the_build_is_announced(runs: Runs, llamacpp: Config) -> None:
    said = io.StringIO()
    Setup(Progress(said)).run(llamacpp)
    labels = [label for label in runs.labels if "ten minutes" in label]
    assert labels


def test_without_a_compiler_there_is_a_way_out(
    runs: Runs, llamacpp: Config, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SetupFailed, match="LLAMA_SERVER"):
        setup.run(llamacpp)


def test_a_llama_server_that_is_there_is_not_built(
    runs: Runs, config: Config, setup: Setup, tmp_path: Path
) -> None:
    own = LocalWorker(kind="llamacpp", llama_server=tmp_path / "llama-server")
    there = Config(home=config.home, local_worker=own)
    setup.run(there)
    assert setup.is_done(there)
    assert not runs.having("-m venv")


def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    setup = Setup(Progress(io.StringIO()))
    with pytest.raises(SetupFailed, match="trying it failed:\nthe reason"):
        setup._run("trying it", [sys.executable, "-c", "import sys; sys.exit('the reason')"])


def test_the_locks_name_no_registry(repository: Path) -> None:
    found = subprocess.run(
        ["grep", "-rlE", "https?://|index-url", "deploy/locks"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
