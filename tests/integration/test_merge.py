"""Adapters of one base merged into one, by the real libraries, on a tiny base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import MergeRefused
from trainer.fingerprint import measure_on
from trainer.merge import METHODS, Plan, Source, merge

from .adapters import BASE, HIDDEN, LAYERS, add_fingerprint, make_adapter

pytestmark = [
    # What PEFT still asks of transformers.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights, which the tiny adapters fit."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / BASE
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Two adapters of one rank."""
    return [
        Source(f"{name}@1", f"{seed:064x}", make_adapter(tmp_path / name, seed=seed), 0.5)
        for seed, name in enumerate("ab")
    ]


def changes(folder: Path) -> dict[str, Any]:
    """What an adapter adds to each module's weights."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_bytes())
    matrices = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        name.replace(".lora_A.weight", ""): scale
        * (matrices[name.replace("lora_A", "lora_B")].float() @ matrices[name].float())
        for name in matrices
        if "lora_A" in name
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    import torch

    assert one.keys() == other.keys()
    # Saved in float16.
    return all(torch.allclose(one[name], other[name], atol=2e-4, rtol=2e-3) for name in one)


def test_an_adapter_with_itself_is_itself(
    base: Path, sources: list[Source], tmp_path: Path
) -> None:
    a = sources[0]
    kept = merge(base, [a, a], Plan(), "both", tmp_path / "out")
    assert same(changes(tmp_path / "out"), changes(a.folder))
    assert kept == pytest.approx(1)


def test_a_weight_of_one_is_that_adapter(base: Path, sources: list[Source], tmp_path: Path) -> None:
    a, b = replace(sources[0], weight=1), replace(sources[1], weight=0)
    for method in ("linear", "dare_linear"):
        out = tmp_path / method
        merge(base, [a, b], Plan(method, density=0.999999), "both", out)
        assert same(changes(out), changes(a.folder))
        assert not same(changes(out), changes(b.folder))


def test_a_sum_is_the_sum_as_far_as_the_rank_goes(
    base: Path, sources: list[Source], tmp_path: Path
) -> None:
    # With twice the rank, both fit whole.
    wide = make_adapter(tmp_path / "wide", rank=8, seed=5)
    c = Source("c@1", "c" * 64, wide, 0.0)
    a, b = replace(sources[0], weight=0.7), replace(sources[1], weight=0.3)
    kept = merge(base, [a, b, c], Plan(), "both", tmp_path / "whole")
    one, other = changes(a.folder), changes(b.folder)
    total = {name: 0.7 * one[name] + 0.3 * other[name] for name in one}
    assert same(changes(tmp_path / "whole"), total)
    assert kept == pytest.approx(1)
    assert 0.5 < merge(base, [a, b], Plan(), "both", tmp_path / "half") < 0.999


def test_dare_draws_by_its_seed(base: Path, sources: list[Source], tmp_path: Path) -> None:
    files = []
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        merge(base, sources, Plan("dare_ties", 0.5, seed), "both", tmp_path / name)
        files.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("method", METHODS)
def test_the_manifest_tells_where_it_comes_from(
    base: Path, sources: list[Source], tmp_path: Path, method: str
) -> None:
    for source in sources:
        add_fingerprint(source.folder)
    out = tmp_path / "out"
    merge(base, sources, Plan(method, density=0.4, seed=3), "both", out)
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["merged_from"] == [
        {"model": source.model, "sha256": source.sha256, "weight": 0.5} for source in sources
    ]
    assert (manifest["alias"], manifest["base_model"]) == ("both", BASE)
    assert manifest["method"] == method
    assert manifest["density"] == (None if method == "linear" else 0.4)
    assert manifest["seed"] == (3 if method.startswith("dare") else None)
    # As a worker will measure it: the files as they are saved, on the adapters' own prompts.
    mark = manifest["fingerprint"]
    again = measure_on(base, out, mark["prompts"])
    for name in ("base_mean", "adapter_mean"):
        assert mark[name] == pytest.approx(again[name], abs=2e-6)
    assert mark["base_mean"] != mark["adapter_mean"]


def test_what_cannot_be_merged(base: Path, sources: list[Source], tmp_path: Path) -> None:
    out, a = tmp_path / "out", sources[0]
    stranger = Source("x@1", "0", make_adapter(tmp_path / "x", base="org/other"), 1)
    wide = Source("w@1", "0", make_adapter(tmp_path / "w", rank=8), 1)
    for given, plan, said in (
        ([a, stranger], Plan(), "x@1 was trained on 'org/other'"),
        ([a, wide], Plan("ties"), "a@1 4, w@1 8"),
        ([a], Plan(), "two adapters"),
        (sources, Plan("mean"), "method"),
        (sources, Plan("ties", density=1.5), "density"),
        ([a, replace(a, weight=float("nan"))], Plan(), "finite"),
    ):
        with pytest.raises(MergeRefused, match=said):
            merge(base, given, plan, "both", out)
    assert not out.exists()
