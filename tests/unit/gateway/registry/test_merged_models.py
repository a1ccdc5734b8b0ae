"""A whole model as a version: kept as it is, held to its own files, and loaded by nobody."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Conflict
from gateway.registry.errors import InvalidAdapter
from gateway.registry.receiving import MAX_BYTES
from gateway.registry.service import Registry
from gateway.registry.snapshot import VersionState, WorkerSpec
from gateway.settings import BaseModelSettings

from .adapter_files import BASE, fingerprint, left_in, safetensors, write_adapter, write_model


def test_a_model_is_the_next_version_of_its_alias(
    registry: Registry, tmp_path: Path, storage: Path
) -> None:
    registry.register("default", "support", write_adapter(tmp_path / "adapter"))
    folder = write_model(tmp_path / "model")
    for name in ("modeling.py", "notes.txt", "pytorch_model.md"):
        (folder / name).write_text("not taken")
    made = registry.register("default", "support", folder)
    assert (made.model, made.rank, made.is_merged) == ("support@2", 0, True)
    assert made.base_model == BASE
    kept = {path.name for path in (storage / "adapters" / made.sha256).iterdir()}
    assert kept == {
        "config.json",
        "files.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }
    manifest = registry.manifest(made.id)
    assert (manifest["kind"], manifest["architectures"]) == ("merged", ["LlamaForCausalLM"])
    assert set(manifest["files"]) == kept - {"files.json"}
    assert registry.register("default", "support", folder) == made


def test_a_model_may_be_uploaded(registry: Registry, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    sent = {path.name: io.BytesIO(path.read_bytes()) for path in folder.iterdir()}
    made = registry.register("default", "support", sent)
    assert made == registry.register("default", "support", folder)
    sent = {name: io.BytesIO(stream.getvalue()) for name, stream in sent.items()}
    with pytest.raises(InvalidAdapter, match=r"'evil\.py' is not one of a model's files"):
        registry.register("default", "support", sent | {"evil.py": io.BytesIO(b"x")})


def test_a_model_from_a_folder_may_be_larger_than_an_adapter(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.storage, "_max_bytes", 100)
    assert registry.register("default", "support", write_model(tmp_path / "model")).is_merged
    assert MAX_BYTES < 2**30


INDEX = "model_safetensors_index_json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config_json": b"{}"}, "config.json: architectures: must list the model's classes"),
        (
            {"config_json": b'{"architectures": ["A"], "auto_map": {"AutoModel": "m.M"}}'},
            "config.json: auto_map: names code that comes with a model",
        ),
        ({"tokenizer_json": None}, "tokenizer.json: is missing"),
        (
            {"model_1_safetensors": None, "model_2_safetensors": None, INDEX: None},
            "model.safetensors: is missing: there are no weights",
        ),
        (
            {"model_2_safetensors": None},
            "lm_head.weight: is to be in model-2.safetensors, but no file has it",
        ),
        (
            {INDEX: b'{"weight_map": {"lm_head.weight": "model-1.safetensors"}}'},
            "lm_head.weight: is to be in model-1.safetensors, but it is in model-2.safetensors",
        ),
        ({INDEX: b"{}"}, "weight_map: must tell the file of each tensor"),
        ({"model_1_safetensors": b"short"}, "model-1.safetensors: is corrupt"),
        ({"model_1_safetensors": b"\x80\x04 pickled"}, "model-1.safetensors: is a pickle"),
        (
            {"model_1_safetensors": safetensors({"lm_head.weight": ("BF16", (8, 8))})},
            "lm_head.weight: is in model-1.safetensors too",
        ),
        ({"pytorch_model.bin": b"\x80\x04"}, "pytorch_model.bin is a pickle"),
        ({"manifest.json": b'{"base_model": "other"}'}, "manifest.json: base_model: is 'other'"),
        ({"manifest.json": b'{"fingerprint": 1}'}, "manifest.json: fingerprint: must be an object"),
    ],
)
def test_models_that_cannot_be_served_leave_nothing(
    registry: Registry, tmp_path: Path, storage: Path, changes: Any, message: str
) -> None:
    with pytest.raises(InvalidAdapter) as caught:
        registry.register("default", "support", write_model(tmp_path / "model", **changes))
    assert message in caught.value.message
    assert left_in(storage) == []


def test_it_may_come_from_a_further_base(registry: Registry, tmp_path: Path, storage: Path) -> None:
    engine = registry._engine
    bases = (BaseModelSettings(name="qwen", model="Qwen2.5-7B"),)
    wider = Registry(engine, storage, base_model=BASE, bases=bases)
    wider.prepare()
    manifest = {"base_model": "Qwen/Qwen2.5-7B", "fingerprint": fingerprint()}
    folder = write_model(tmp_path / "model", **{"manifest.json": json.dumps(manifest).encode()})
    made = wider.register("default", "triage", folder)
    assert made.base_model == "Qwen2.5-7B"
    assert wider.describe("default", "triage").base == "qwen"
    assert wider.reference(made.id) == manifest["fingerprint"]


def test_it_waits_for_a_worker_that_was_started_with_it(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("default", "support", write_model(tmp_path / "model"))
    for name in ("plain", "own"):
        registry.upsert_worker(WorkerSpec(name, f"http://{name}"))
    registry.record_worker("plain", boot="1", healthy=True, metrics={"adapters": [], "merged": []})
    [told] = registry.describe("default", "support").versions
    assert (
        told.waiting
        == f"No worker that is up was started with it, under the name {made.worker_name}."
    )
    own = {"adapters": [], "merged": [made.worker_name]}
    registry.record_worker("own", boot="1", healthy=True, metrics=own)
    [told] = registry.describe("default", "support").versions
    assert told.waiting == ""


def test_it_takes_no_pin(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("default", "support", write_model(tmp_path / "model"))
    with pytest.raises(Conflict, match="where workers were started with it"):
        registry.pin("default", "support", made.number, 1)
    registry.set_state(made.id, VersionState.CANDIDATE)
    assert registry.promote("default", "support", 1).stable is not None
