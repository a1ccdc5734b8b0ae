from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploy.examples.acme import generate
from trainer.rows import dump_rows, read_rows

ACME = Path(generate.__file__).parent
ADAPTERS = ("support-1", "support-2")
LARGEST = 3_000_000
ABSOLUTE = re.compile(r'"(/|[A-Za-z]:\\|~)|/(home|root|tmp|usr|var|work|opt)/')


def folder(name: str) -> Path:
    return ACME / "adapters" / name


def manifest(name: str) -> dict[str, Any]:
    return json.loads((folder(name) / "manifest.json").read_text(encoding="utf-8"))


def deltas(name: str) -> list[float]:
    value = manifest(name)["fingerprint"]
    return [a - b for a, b in zip(value["adapter_mean"], value["base_mean"], strict=True)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_three_small_files(name: str) -> None:
    names = {path.name for path in folder(name).iterdir()}

    assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert (folder(name) / "adapter_model.safetensors").stat().st_size <= LARGEST


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_configuration_names_the_base_and_no_path(name: str) -> None:
    text = (folder(name) / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)

    assert config["base_model_name_or_path"] == "SmolLM2-135M-Instruct"
    assert config["peft_type"] == "LORA"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not ABSOLUTE.search(text)
    assert not ABSOLUTE.search((folder(name) / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_weights_are_whole(name: str) -> None:
    data = (folder(name) / "adapter_model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}

    assert max(value["data_offsets"][1] for value in tensors.values()) == len(data) - 8 - length
    assert {value["dtype"] for value in tensors.values()} == {"F16"}
    assert not ABSOLUTE.search(json.dumps(header))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_fingerprint_has_its_shape(name: str) -> None:
    value = manifest(name)["fingerprint"]

    assert set(value) == {"prompts", "base_mean", "adapter_mean"}
    assert 4 <= len(value["prompts"]) <= 8
    assert len(value["base_mean"]) == len(value["adapter_mean"]) == len(value["prompts"])
    for prompt in value["prompts"]:
        assert 0 < prompt["answer_start"] < len(prompt["token_ids"]) <= 128
        assert all(0 <= token < 49152 for token in prompt["token_ids"])
    assert all(mean <= 0 for mean in (*value["base_mean"], *value["adapter_mean"]))


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_manifest_says_what_it_was_trained_on(name: str) -> None:
    value = manifest(name)
    count = value["training"]["rows"]
    rows = read_rows(ACME / "data" / "train.jsonl")[:count]
    digest = hashlib.sha256(dump_rows(rows).encode()).hexdigest()

    assert value["alias"] == "support"
    assert value["base_model"] == "SmolLM2-135M-Instruct"
    assert value["dataset"] == {"sha256": digest, "rows": count}
    assert value["training"]["dataset_sha256"] == digest
    assert re.fullmatch(r"[0-9a-f]{64}", value["chat_template_sha256"])


def test_the_two_adapters_are_told_apart_by_the_same_prompts() -> None:
    first, second = (manifest(name)["fingerprint"] for name in ADAPTERS)
    apart = [abs(a - b) for a, b in zip(*map(deltas, ADAPTERS), strict=True)]
    moved = [abs(delta) for delta in deltas("support-2")]

    assert first["prompts"] == second["prompts"]
    assert first["base_mean"] == second["base_mean"]
    # A worker that answers with the other version must be a mismatch: over a tenth of the delta.
    assert sum(apart) > 0.1 * sum(moved)


def test_the_second_was_trained_on_more() -> None:
    assert manifest("support-1")["training"]["rows"] < manifest("support-2")["training"]["rows"]


def test_the_training_script_stays_short() -> None:
    assert len((ACME / "train.py").read_text(encoding="utf-8").splitlines()) < 100
