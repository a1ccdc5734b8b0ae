"""From an adapter as PEFT writes it to the GGUF file that llama-server reads.

llama.cpp names tensors otherwise, and rotates positions in neighbouring pairs of rows where
transformers rotates the two halves of a head: so the rows of the query and key projections stand in
another order there. What else a GGUF of the Llama family holds is as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
from numpy.typing import NDArray

from gateway.registry.module_patterns import ModulePatterns

ARCHITECTURE = "llama"
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
Floats: TypeAlias = NDArray[np.float32]


class CannotConvert(Exception):
    """The adapter or its base has no form that llama-server reads; the message says why."""


@dataclass(frozen=True, slots=True)
class Base:
    """What of a base model's GGUF file its adapters go by."""

    layers: int
    heads: int
    kv_heads: int
    tensors: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Base:
        """Read a base model's file. Raises CannotConvert for one of another family than Llama."""
        try:
            reader = gguf.GGUFReader(path)
            family = _text(reader, "general.architecture")
            if family != ARCHITECTURE:
                raise CannotConvert(
                    f"{path.name} is of the family {family!r}: adapters are converted for"
                    f" {ARCHITECTURE!r} only; serve it with vLLM (--worker vllm)"
                )
            layers, heads = _number(reader, "block_count"), _number(reader, "attention.head_count")
            kv_heads = _number(reader, "attention.head_count_kv", heads)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise CannotConvert(f"{path.name} is no GGUF file of a model: {why(error)}") from error
        return cls(layers, heads, kv_heads, frozenset(tensor.name for tensor in reader.tensors))


def why(error: Exception) -> str:
    """Say what went wrong without a path: callers are told, too."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _text(reader: gguf.GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return str(field.contents())


def _number(reader: gguf.GGUFReader, key: str, default: int | None = None) -> int:
    field = reader.get_field(f"{ARCHITECTURE}.{key}")
    if field is None and default is not None:
        return default
    value = field.contents() if field is not None else None
    if not isinstance(value, int):
        raise ValueError(f"{ARCHITECTURE}.{key} is not one number")  # a list: layers that differ
    return value


def convert(adapter: Path, base: Base, target: Path) -> None:
    """Write the folder `adapter` as the GGUF file `target`, in float32; whole or not at all.

    Raises CannotConvert for what llama-server could not apply as it was trained.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = dict(_converted(_read(adapter / "adapter_model.safetensors"), config, base))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotConvert(f"its files cannot be read: {why(error)}") from error
    draft = target.with_name(f".{target.name}.draft")
    writer = gguf.GGUFWriter(draft, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # With 0 the factors are applied as they are: what scales them is in B already.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    draft.replace(target)


def _read(path: Path) -> dict[str, dict[str, Floats]]:
    """Give both factors of each module, in float32; the registry has checked the file's header."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    found: dict[str, dict[str, Floats]] = {}
    for name, told in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        match = _LORA.fullmatch(name)
        if match is None:
            raise CannotConvert(f"{name}: only LoRA factors can be converted")
        begin, end = told["data_offsets"]
        values = _floats(raw[start + begin : start + end], told["dtype"]).reshape(told["shape"])
        found.setdefault(match["module"], {})[match["side"]] = values
    return found


def _floats(raw: bytes, dtype: str) -> Floats:
    """Widen to float32; numpy has no bfloat16, which is the upper half of one."""
    match dtype:
        case "F32":
            return np.frombuffer(raw, "<f4")
        case "F16":
            return np.frombuffer(raw, "<f2").astype(np.float32)
        case "BF16":
            return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        case _:
            raise CannotConvert(f"factors in {dtype} cannot be converted")


def _converted(
    modules: Mapping[str, Mapping[str, Floats]], config: Mapping[str, Any], base: Base
) -> Iterator[tuple[str, Floats]]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.layers)
    alphas = ModulePatterns(config.get("alpha_pattern") or {}, modules)
    for module, factors in modules.items():
        name = f"{names.get_name(module)}.weight"
        if name not in base.tensors:
            raise CannotConvert(f"{module}: the base model's GGUF has no such weights")
        a, b = (
            factors["A"],
            factors["B"] * np.float32(_scaling(alphas.value_of(module), len(factors["A"]), config)),
        )
        if module.endswith(".q_proj"):
            b = _in_pairs(b, base.heads)
        elif module.endswith(".k_proj"):
            b = _in_pairs(b, base.kv_heads)
        yield f"{name}.lora_a", np.ascontiguousarray(a)
        yield f"{name}.lora_b", np.ascontiguousarray(b)


def _scaling(own: float | None, rank: int, config: Mapping[str, Any]) -> float:
    """PEFT's factor of a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA; `own` alpha."""
    alpha = float(config["lora_alpha"] if own is None else own)
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


def _in_pairs(rows: Floats, heads: int) -> Floats:
    """Put row i of a head's second half behind row i of its first."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)
