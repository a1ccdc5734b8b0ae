"""Adapters and base models in miniature, sound or broken, written byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASE = "SmolLM2-135M-Instruct"
Q = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{Q}"

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def safetensors(tensors: Shapes, fill: int = 0, header: Mapping[str, Any] | None = None) -> bytes:
    """A file with tensors of one byte value; `header` changes what is said of them."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for side in shape:
            size *= side
        said[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    said.update(header or {})
    raw = json.dumps(said).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes([fill]) * at


def lora(rank: int = 4, wide: int = 8, tall: int = 8, dtype: str = "F32") -> Shapes:
    """The two matrices of one module."""
    return {
        f"{PREFIX}.lora_A.weight": (dtype, (rank, wide)),
        f"{PREFIX}.lora_B.weight": (dtype, (tall, rank)),
    }


def config(**changes: Any) -> dict[str, Any]:
    """A sound adapter_config.json, with changes."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": f"HuggingFaceTB/{BASE}",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj"],
        **changes,
    }


def write_adapter(
    folder: Path,
    *,
    fill: int = 0,
    said: Mapping[str, Any] | None = None,
    weights: bytes | None = None,
    manifest: Any = None,
) -> Path:
    """A sound adapter's folder, with changes; another `fill`, other bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(said or config()))
    content = safetensors(lora(), fill) if weights is None else weights
    (folder / "adapter_model.safetensors").write_bytes(content)
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_base(folder: Path) -> Path:
    """A base model with a module that `lora()` fits."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{Q}.weight": ("BF16", (8, 8)),
        "model.embed_tokens.weight": ("BF16", (100, 8)),
        "model.layers.0.mlp.packed.weight": ("U8", (32, 1)),
    }
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def fingerprint(**changes: Any) -> dict[str, Any]:
    """A sound fingerprint, with changes."""
    prompts = [{"token_ids": [5, 6, 7], "answer_start": 1} for _ in range(4)]
    return {
        "prompts": prompts,
        "base_mean": [-2.0] * 4,
        "adapter_mean": [-1.0] * 4,
        **changes,
    }


def left_in(folder: Path) -> list[str]:
    """Everything that lies under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_model(folder: Path, **changes: bytes | None) -> Path:
    """A merged model in two parts; `changes` replace files, dots as underscores, or leave out."""
    parts = {"model-1.safetensors": f"{Q}.weight", "model-2.safetensors": "lm_head.weight"}
    files: dict[str, bytes | None] = {
        name: safetensors({tensor: ("BF16", (8, 8))}) for name, tensor in parts.items()
    }
    where = {tensor: name for name, tensor in parts.items()}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    files["config.json"] = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
    files["tokenizer.json"] = b"{}"
    by_key = {name.replace(".", "_").replace("-", "_"): name for name in files}
    files |= {by_key.get(key, key): content for key, content in changes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder
