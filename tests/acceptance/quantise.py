"""Quantised copies of a model, by rounding to the nearest of 16 steps: small, no tool, no data.

Files are those of GPTQ and AWQ checkpoints as AutoGPTQ and AutoAWQ write them; their calibration,
which would choose better roundings, is left out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 64  # rows of a weight that share a scale; it must divide every layer's inputs
PER_WORD = 8  # values of four bits in an int32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "sym": True,
        "desc_act": False,
        "checkpoint_format": "gptq",
    },
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
    },
}


def quantise(source: Path, target: Path, method: str) -> None:
    """Write a copy of `source` whose layers' linear weights have four bits; `method`: gptq, awq."""
    pack = {"gptq": gptq, "awq": awq}[method]
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target)
    config = json.loads((source / "config.json").read_text())
    config |= {"dtype": "float16", "quantization_config": CONFIGS[method]}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and stem.endswith("_proj"):
            tensors |= {f"{stem}.{part}": value for part, value in pack(weight.float()).items()}
        else:
            tensors[name] = weight.half()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def gptq(weight: Tensor) -> dict[str, Tensor]:
    """Pack (outputs, inputs) symmetrically: eight inputs to a word."""
    grouped = _grouped(weight)
    scale = (grouped.abs().amax(1) / 7).clamp(min=1e-8)
    steps = (grouped / scale[:, None]).round().clamp(-8, 7) + 8
    inputs, outputs = weight.T.shape
    words = _words(steps.reshape(inputs // PER_WORD, PER_WORD, outputs).movedim(1, -1))
    # The format keeps the zero point less one.
    zeros = _words(torch.full((len(scale), outputs // PER_WORD, PER_WORD), 7))
    owner = torch.arange(inputs, dtype=torch.int32) // GROUP
    return {"qweight": words, "qzeros": zeros, "scales": scale.half(), "g_idx": owner}


def awq(weight: Tensor) -> dict[str, Tensor]:
    """Pack (outputs, inputs) with zero points: eight outputs to a word, in AWQ's order."""
    grouped = _grouped(weight)
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-8)
    zero = (-low / scale).round()
    steps = ((grouped / scale[:, None]).round() + zero[:, None]).clamp(0, 15)
    outputs = len(weight)

    def packed(values: Tensor) -> Tensor:
        return _words(values.reshape(-1, outputs // PER_WORD, PER_WORD)[..., AWQ_ORDER])

    return {"qweight": packed(steps), "qzeros": packed(zero), "scales": scale.half()}


def _grouped(weight: Tensor) -> Tensor:
    """Give (outputs, inputs) as (groups, inputs of a group, outputs)."""
    return weight.T.reshape(-1, GROUP, len(weight))


def _words(values: Tensor) -> Tensor:
    """Pack the last dimension, eight values from 0 to 15, into an int32: the first is lowest."""
    shifts = torch.arange(PER_WORD) * 4
    return (values.long() << shifts).sum(-1).to(torch.int32).contiguous()
