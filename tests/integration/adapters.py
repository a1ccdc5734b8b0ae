"""Tiny adapters, and a tiny base that they fit, made without any library."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASE = "tiny-base"
HIDDEN = 32
LAYERS = 2
MODULES = ("q_proj", "v_proj")


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
    """Write random float32 tensors."""
    draw = random.Random(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        values = struct.pack(f"<{count}f", *(draw.uniform(-0.1, 0.1) for _ in range(count)))
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def make_base(folder: Path) -> Path:
    """A base model's folder, named `tiny-base`: a configuration and the tensors adapters fit."""
    base = folder / BASE
    base.mkdir(parents=True)
    config = {"model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS}
    (base / "config.json").write_text(json.dumps(config))
    shapes = {
        f"model.layers.{layer}.self_attn.{module}.weight": (HIDDEN, HIDDEN)
        for layer in range(LAYERS)
        for module in MODULES
    }
    write_safetensors(base / "model.safetensors", shapes)
    return base


def make_adapter(
    folder: Path, *, seed: int = 0, rank: int = 4, base: str = BASE, hidden: int = HIDDEN
) -> Path:
    """An adapter's folder; other seeds, other weights."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(MODULES),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        for module in MODULES:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            shapes[f"{name}.lora_A.weight"] = (rank, hidden)
            shapes[f"{name}.lora_B.weight"] = (hidden, rank)
    write_safetensors(folder / "adapter_model.safetensors", shapes, seed)
    return folder


def make_model(folder: Path, *, seed: int = 0) -> Path:
    """A merged model's folder; other seeds, other weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", {"lm_head.weight": (HIDDEN, HIDDEN)}, seed)
    return folder


def add_fingerprint(folder: Path, *, scale: float = 1.0) -> Path:
    """Give a version a manifest with a reference, which the stub worker answers with."""
    prompts = [
        {"token_ids": [7 + 13 * row + column for column in range(12)], "answer_start": 5}
        for row in range(4)
    ]
    base = [-3.0 - 0.1 * row for row in range(4)]
    fingerprint = {
        "prompts": prompts,
        "base_mean": base,
        "adapter_mean": [mean + scale for mean in base],
    }
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return folder
