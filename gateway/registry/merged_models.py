"""Whether a merged model can be served: a whole model that workers are started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.registry.artifacts import (
    AdapterFacts,
    Rules,
    fault,
    read_manifest,
    read_object,
    read_tensors,
)
from gateway.registry.names import model_name
from gateway.registry.receiving import MANIFEST, MODEL_CONFIG, MODEL_INDEX, Draft

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def inspect_merged(draft: Draft, *bases: Rules) -> AdapterFacts:
    """Check a model's files; its rank is 0. Raises `InvalidAdapter`.

    Its manifest may name the base that it comes from; without, the default one is taken.
    """
    config = read_object(draft.folder / MODEL_CONFIG)
    _check_config(config)
    if not any(name in draft.files for name in _TOKENIZERS):
        fault(_TOKENIZERS[0], None, "is missing: a worker is started with model and tokenizer")
    where = _tensors(draft)
    _check_index(draft, where)
    brought = read_manifest(draft.folder / MANIFEST)
    base = _base_of(brought, bases)
    manifest = {
        **brought,
        "kind": "merged",
        "base_model": base,
        "architectures": config["architectures"],
        "files": draft.described,
    }
    return AdapterFacts(base, 0, manifest)


def _check_config(config: Mapping[str, Any]) -> None:
    named = config.get("architectures")
    if not isinstance(named, list) or not named or not all(isinstance(a, str) for a in named):
        fault(MODEL_CONFIG, "architectures", "must list the model's classes, as transformers does")
    if config.get("auto_map"):
        fault(MODEL_CONFIG, "auto_map", "names code that comes with a model, which is never run")


def _tensors(draft: Draft) -> dict[str, str]:
    """Give the file of each tensor, by the tensor's name."""
    where: dict[str, str] = {}
    for name in draft.files:
        if name.endswith(".safetensors"):
            for tensor in read_tensors(draft.folder / name):
                if tensor in where:
                    fault(name, tensor[:200], f"is in {where[tensor]} too")
                where[tensor] = name
    if not where:
        fault("model.safetensors", None, "is missing: there are no weights")
    return where


def _check_index(draft: Draft, where: Mapping[str, str]) -> None:
    """Hold the index of a model in parts to its parts: one that is missing loads as nothing."""
    if MODEL_INDEX not in draft.files:
        return
    listed = read_object(draft.folder / MODEL_INDEX).get("weight_map")
    if not isinstance(listed, dict):
        fault(MODEL_INDEX, "weight_map", "must tell the file of each tensor")
    for tensor, name in listed.items():
        if where.get(tensor) != name:
            found = f"it is in {where[tensor]}" if tensor in where else "no file has it"
            fault(MODEL_INDEX, str(tensor)[:200], f"is to be in {str(name)[:120]}, but {found}")


def _base_of(manifest: Mapping[str, Any], bases: Sequence[Rules]) -> str:
    named = manifest.get("base_model")
    if named is None:
        return bases[0].base_model
    wanted = model_name(named) if isinstance(named, str) else None
    found = next((r.base_model for r in bases if model_name(r.base_model) == wanted), None)
    if found is None:
        served = " or ".join(repr(rules.base_model) for rules in bases)
        fault(MANIFEST, "base_model", f"is {str(named)[:200]!r}, but {served} is configured here")
    return found
