from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.config import Config
from deploy.setup import default_model
from trainer.errors import TrainingFailed
from trainer.rows import Row, dump_rows
from trainer.runs import Run
from trainer.training import progress_line, run_training

pytestmark = [
    # The training process is another one; here only its files are read.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROWS = [
    Row(f"r{n}", "Say the number.", f"Which one is it, {n}?", f"It is {n}.", "numbers")
    for n in range(24)
]
# A training that dies of SIGKILL as soon as it has told of its ninth step.
KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.runs import Run
from trainer.train import train

write = Run.write
def write_and_die(self, path, value):
    write(self, path, value)
    if value.get("step") == 9:
        os.kill(os.getpid(), signal.SIGKILL)
Run.write = write_and_die
train(Run(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights and the default model's tokenizer."""
    source = default_model(Config())
    if not source.is_dir():
        pytest.skip("the default model is not unpacked: run `adapterloop setup`")
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    # In a process of its own: this one stays free of torch.
    code = f"""
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
tokenizer = AutoTokenizer.from_pretrained({str(source)!r})
config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, vocab_size=len(tokenizer))
LlamaForCausalLM(config).save_pretrained({str(folder)!r})
tokenizer.save_pretrained({str(folder)!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    return folder


def order(run: Run, model: Path, **recipe: object) -> Run:
    run.root.mkdir(parents=True)
    run.rows.write_text(dump_rows(ROWS), encoding="utf-8")
    run.write(
        run.order,
        {
            "alias": "numbers",
            "model": str(model),
            "recipe": {"rank": 4, "alpha": 8, "epochs": 4, "batch": 4, **recipe},
            "dataset": {"sha256": "0" * 64, "rows": len(ROWS)},
            "threads": 1,
        },
    )
    return run


def test_a_training_that_is_killed_goes_on_from_its_checkpoint(tmp_path: Path, model: Path) -> None:
    run = order(Run(tmp_path / "run"), model)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(run.root)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL, first.stderr
    progress = run.read_progress()
    assert progress["step"] == 9
    assert not run.is_trained
    # A mark that a training from the start would write over.
    run.write(run.progress, progress | {"losses": progress["losses"] | {"1": 99.0}})

    lines: list[str] = []
    run_training(run, lambda: None, lines.append)

    progress = run.read_progress()
    assert (progress["step"], progress["steps"]) == (24, 24)
    assert progress["losses"]["1"] == 99.0
    assert len(progress["losses"]) == 24
    manifest = json.loads((run.adapter / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["training"]["method"] == "qlora"
    assert manifest["training"]["epochs"] == 4.0
    assert manifest["dataset"]["sha256"] == "0" * 64
    assert len(manifest["fingerprint"]["prompts"]) == 6
    assert (run.adapter / "adapter_model.safetensors").stat().st_size > 1000
    assert "step 24 of 24" in progress_line(run)

    before = (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    run_training(run, lambda: None, lines.append)  # whole already: nothing is done
    assert (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_training_that_fails_says_its_last_words(tmp_path: Path, model: Path) -> None:
    run = order(Run(tmp_path / "run"), model)
    run.rows.write_text('{"id": "a", "instruction": "b", "input": "c"}\n', encoding="utf-8")
    with pytest.raises(TrainingFailed, match="line 1: missing or empty: output"):
        run_training(run, lambda: None, lambda line: None)


def test_the_training_ends_when_the_lease_is_lost(tmp_path: Path, model: Path) -> None:
    run = order(Run(tmp_path / "run"), model, epochs=50)

    def check() -> None:
        if run.read_progress().get("step", 0) >= 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_training(run, check, lambda line: None)
    step = run.read_progress()["step"]
    time.sleep(1)
    assert run.read_progress()["step"] == step
    with run.alone():
        pass  # nobody holds the folder any more
