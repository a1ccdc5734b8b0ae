"""Whether an adapter can be served: each fault has its own message, which names file and field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gateway.registry.base_shapes import BaseModelShapes
from gateway.registry.errors import InvalidAdapter
from gateway.registry.module_patterns import BadPattern, ModulePatterns
from gateway.registry.names import model_name
from gateway.registry.receiving import CONFIG, MANIFEST, WEIGHTS, Draft
from gateway.registry.safetensors_header import (
    BadSafetensors,
    TensorInfo,
    is_pickle,
    read_header,
)

_MAX_JSON_BYTES = 8 * 1024 * 1024
_FLOATS = ("F32", "F16", "BF16")
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

# Options of PEFT that change what the adapter means and that workers do not implement.
_UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "DoRA cannot be served: train without use_dora",
    "lora_bias": "LoRA biases cannot be served: train with lora_bias false",
    "modules_to_save": "whole modules cannot be served: train without modules_to_save",
    "trainable_token_indices": "trained token embeddings cannot be served as an adapter",
    "target_parameters": "adapters of bare parameters cannot be served: use target_modules",
    "layer_replication": "replicated layers cannot be served",
    "alora_invocation_tokens": "activated LoRA cannot be served",
    "use_bdlora": "block-diagonal LoRA cannot be served",
    "use_qalora": "QALoRA cannot be served",
}
# These begin from a changed base, so the adapter does not fit the one that is served.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True, slots=True)
class Rules:
    """What an adapter must fit; `shapes` is None where the base model's files are not at hand."""

    base_model: str
    max_lora_rank: int
    shapes: BaseModelShapes | None = None


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What was found out about a sound adapter; `rank` is its largest, 0 of a merged model."""

    base_model: str
    rank: int
    manifest: Mapping[str, Any]


def inspect(draft: Draft, *bases: Rules) -> AdapterFacts:
    """Check an adapter's files against the base that it names. Raises `InvalidAdapter`."""
    config = read_object(draft.folder / CONFIG)
    rules = _base_of(config, bases)
    _check_options(config)
    rank = _check_ranks(config, rules.max_lora_rank)
    tensors = read_tensors(draft.folder / WEIGHTS)
    targets = _check_tensors(tensors, config, rules.shapes)
    brought = read_manifest(draft.folder / MANIFEST)
    manifest = {
        **brought,
        "base_model": rules.base_model,
        "rank": rank,
        "alpha": config.get("lora_alpha"),
        "target_modules": targets,
        "files": draft.described,
    }
    return AdapterFacts(rules.base_model, rank, manifest)


def fault(file: str, field: str | None, message: str) -> NoReturn:
    """Refuse a file: the message names it, the field where there is one, and what is wrong."""
    where = f"{file}: {field}" if field else file
    raise InvalidAdapter(f"{where}: {message}.", param=field or file)


# -- adapter_config.json -------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    """Read a received file that must hold a JSON object. Raises `InvalidAdapter`."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        fault(path.name, None, f"is larger than {_MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(path.read_bytes())
        # NaN and half a surrogate pair are no JSON for databases and clients: they end here.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{path.name}: is not valid JSON.", param=path.name) from error
    if not isinstance(value, dict):
        fault(path.name, None, "must hold a JSON object")
    return value


def _base_of(config: Mapping[str, Any], bases: Sequence[Rules]) -> Rules:
    """Give the rules of the base that the adapter was made for."""
    field = "base_model_name_or_path"
    named = config.get(field)
    if not isinstance(named, str) or not model_name(named.strip()):
        fault(CONFIG, field, "must name the base model that the adapter was trained on")
    for rules in bases:
        if model_name(named) == model_name(rules.base_model):
            return rules
    served = " or ".join(repr(rules.base_model) for rules in bases)
    fault(CONFIG, field, f"the adapter was trained on {named[:200]!r}, but {served} is served here")


def _check_options(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        fault(CONFIG, "peft_type", f"must be 'LORA', not {str(config.get('peft_type'))[:40]!r}")
    if config.get("bias", "none") != "none":
        fault(CONFIG, "bias", "biases cannot be served: train with bias 'none'")
    for field, message in _UNSUPPORTED.items():
        if config.get(field):
            fault(CONFIG, field, message)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        fault(
            CONFIG,
            "init_lora_weights",
            f"{start[:40]!r} changes the base model's weights: save the adapter with PEFT's "
            "path_initial_model_for_weight_conversion",
        )
    by_name = config.get("alpha_pattern") or {}
    if not isinstance(by_name, dict):
        fault(CONFIG, "alpha_pattern", "must be an object")
    alphas = [("lora_alpha", config.get("lora_alpha")), *_by_name("alpha_pattern", by_name)]
    for field, alpha in alphas:
        if not _is_number(alpha) or not alpha > 0:
            fault(CONFIG, field, "must be a number above 0")
    targets = config.get("target_modules")
    named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not targets or not (named or isinstance(targets, str)):
        fault(CONFIG, "target_modules", "must list the modules that the adapter changes")


def _check_ranks(config: Mapping[str, Any], allowed: int) -> int:
    """Give the largest rank that any module has."""
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        fault(CONFIG, "rank_pattern", "must be an object")
    ranks = [("r", config.get("r")), *_by_name("rank_pattern", pattern)]
    largest = 0
    for field, rank in ranks:
        if type(rank) is not int or rank < 1:
            fault(CONFIG, field, "must be a whole number above 0")
        if rank > allowed:
            fault(CONFIG, field, f"rank {rank} is over {allowed}, the most that workers take")
        largest = max(largest, rank)
    return largest


def _by_name(field: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Give the values of a field that has one for each of some names, each with its place."""
    return [(f"{field}.{name[:80]}", value) for name, value in values.items()]


def _patterns(
    config: Mapping[str, Any], field: str, modules: Collection[str]
) -> ModulePatterns[float]:
    """Give what the configuration says of modules by patterns of their names."""
    try:
        return ModulePatterns(config.get(field) or {}, modules)
    except BadPattern as error:
        fault(CONFIG, field, str(error))


# -- adapter_model.safetensors -------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Give the tensors of a received file by name. Raises `InvalidAdapter`."""
    if is_pickle(path):
        fault(
            path.name,
            None,
            "is a pickle under a safetensors name, which can run code when it is loaded",
        )
    try:
        return read_header(path)
    except BadSafetensors as error:
        raise InvalidAdapter(f"{path.name}: is corrupt: {error}.", param=path.name) from error


def _check_tensors(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], shapes: BaseModelShapes | None
) -> list[str]:
    """Check every pair of LoRA matrices; give the kinds of module they belong to."""
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        module, side = _module_of(name)
        if info.dtype not in _FLOATS:
            fault(WEIGHTS, name, f"has dtype {info.dtype}, not one of {', '.join(_FLOATS)}")
        if len(info.shape) != 2:
            fault(WEIGHTS, name, f"has shape {list(info.shape)}, a LoRA matrix has two dimensions")
        pairs.setdefault(module, {})[side] = info
    if not pairs:
        fault(WEIGHTS, None, "holds no LoRA matrices")
    ranks = _patterns(config, "rank_pattern", pairs)
    _patterns(config, "alpha_pattern", pairs)
    for module, pair in pairs.items():
        _check_pair(module, pair, int(ranks.value_of(module) or config["r"]), shapes)
    return sorted({module.rsplit(".", 1)[-1] for module in pairs})


def _module_of(name: str) -> tuple[str, str]:
    match = _LORA.fullmatch(name)
    if match is not None:
        return match["module"], match["side"]
    shown = name[:200]
    if "lora_magnitude_vector" in name:
        fault(WEIGHTS, shown, "belongs to DoRA, which cannot be served")
    if "lora_embedding" in name or "embed_tokens" in name or "modules_to_save" in name:
        fault(WEIGHTS, shown, "whole modules and embeddings cannot be served as an adapter")
    fault(
        WEIGHTS,
        shown,
        "is no LoRA matrix: names are base_model.model.<module>.lora_A.weight and lora_B.weight",
    )


def _check_pair(
    module: str, pair: Mapping[str, TensorInfo], rank: int, shapes: BaseModelShapes | None
) -> None:
    names = {side: f"base_model.model.{module}.lora_{side}.weight" for side in "AB"}
    for side in "AB":
        if side not in pair:
            fault(WEIGHTS, names[side], "is missing, its other half is there")
    (rank_a, wide), (tall, rank_b) = pair["A"].shape, pair["B"].shape
    for side, found in (("A", rank_a), ("B", rank_b)):
        if found != rank:
            fault(WEIGHTS, names[side], f"has rank {found}, {CONFIG} says {rank}")
    if shapes is None:
        return
    if not shapes.knows(module):
        fault(WEIGHTS, names["A"], f"the base model has no module {module!r} to change")
    expected = shapes.linear(module)
    if expected is not None and (tall, wide) != expected:
        side = "A" if wide != expected[1] else "B"
        fault(
            WEIGHTS,
            names[side],
            f"has shape {list(pair[side].shape)}, which does not fit the base model's "
            f"{list(expected)}",
        )


# -- manifest.json -------------------------------------------------------------------------------


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what a version brings of its training; empty where it brings nothing."""
    if not path.exists():
        return {}
    manifest = read_object(path)
    if manifest.get("fingerprint") is not None:
        _check_fingerprint(manifest["fingerprint"])
    return manifest


def _check_fingerprint(fingerprint: object) -> None:
    if not isinstance(fingerprint, dict):
        fault(MANIFEST, "fingerprint", "must be an object")
    prompts = fingerprint.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        fault(MANIFEST, "fingerprint.prompts", "must be a list")
    for prompt in prompts:
        ids = prompt.get("token_ids") if isinstance(prompt, dict) else None
        if not isinstance(ids, list) or not all(type(item) is int and item >= 0 for item in ids):
            fault(MANIFEST, "fingerprint.prompts", "each needs token_ids, a list of whole numbers")
        start = prompt.get("answer_start")
        if type(start) is not int or not 0 < start < len(ids):
            fault(MANIFEST, "fingerprint.prompts", "each needs answer_start within its token_ids")
    for field in ("base_mean", "adapter_mean"):
        means = fingerprint.get(field)
        if not isinstance(means, list) or len(means) != len(prompts):
            fault(MANIFEST, f"fingerprint.{field}", "must have one number for each prompt")
        if not all(_is_number(mean) for mean in means):
            fault(MANIFEST, f"fingerprint.{field}", "must hold finite numbers")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
