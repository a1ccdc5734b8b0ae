"""Merging adapters of one base into one, by PEFT on a CPU.

`linear` is the weighted sum of what the adapters change, exactly, and then its best approximation
of the largest rank among them (Eckart and Young 1936). PEFT's method of that name sums the factors
A and B one by one instead, so that an adapter merged with itself comes out twice as strong. `ties`
and `dare_*` (Yadav et al. 2023, Yu et al. 2024) are PEFT's, on the factors; they take adapters of
one rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from trainer.artifact import write_adapter, write_manifest
from trainer.errors import MergeRefused
from trainer.fingerprint import PROMPTS, measure_on

METHODS = ("linear", "ties", "dare_linear", "dare_ties")


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter to merge: its name and digest, the folder with its files, and its weight."""

    model: str
    sha256: str
    folder: Path
    weight: float

    def read(self, name: str) -> dict[str, Any]:
        """Give one of its JSON files, {} where it has none."""
        path = self.folder / name
        return dict(json.loads(path.read_bytes())) if path.exists() else {}


@dataclass(frozen=True, slots=True)
class Plan:
    """How to merge: `density` is the share of the values that ties and dare keep, 0..1."""

    method: str = "linear"
    density: float = 0.5
    seed: int = 7


def merge(base: Path, sources: Sequence[Source], plan: Plan, alias: str, out: Path) -> float:
    """Merge adapters of `base` into one for `alias` in the folder `out`, manifest and all.

    The fingerprint is measured on the prompts of theirs; there is none where they have none. Gives
    the share (0..1) of the merged change, as the sum of squares, that its rank can hold. Raises
    `MergeRefused`.
    """
    manifests = [source.read("manifest.json") for source in sources]
    configs = [source.read("adapter_config.json") for source in sources]
    _check(base, sources, configs, plan)
    templates = {m["chat_template_sha256"] for m in manifests if "chat_template_sha256" in m}
    if len(templates) > 1:
        raise MergeRefused("The adapters were trained with different chat templates.")
    state, config = _by_peft(base, sources, plan)
    kept = 1.0
    if plan.method == "linear":
        rank = max(max([c["r"], *(c.get("rank_pattern") or {}).values()]) for c in configs)
        state, kept = _of_rank(state, rank)
        config["r"] = rank
    # The weights hold all scaling: alpha over rank is one.
    scale = {"lora_alpha": config["r"], "use_rslora": False}
    write_adapter(state, {**config, **scale}, base.name, out)
    manifest: dict[str, Any] = {
        "alias": alias,
        "base_model": base.name,
        "merged_from": [
            {"model": source.model, "sha256": source.sha256, "weight": source.weight}
            for source in sources
        ],
        "method": plan.method,
        "density": None if plan.method == "linear" else plan.density,
        "seed": plan.seed if plan.method.startswith("dare") else None,
    }
    if templates:
        manifest["chat_template_sha256"] = templates.pop()
    if prompts := _prompts(manifests):
        manifest["fingerprint"] = measure_on(base, out, prompts)
    write_manifest(manifest, out)
    return kept


def _check(
    base: Path, sources: Sequence[Source], configs: Sequence[Mapping[str, Any]], plan: Plan
) -> None:
    """Refuse what would come out as nothing that anybody meant."""
    if plan.method not in METHODS:
        raise MergeRefused(f"method is one of {', '.join(METHODS)}, not {plan.method!r}.")
    if not 0 < plan.density < 1:
        raise MergeRefused(f"density lies between 0 and 1, and {plan.density} does not.")
    if len(sources) < 2:
        raise MergeRefused("A merge takes two adapters at least.")
    if not all(math.isfinite(source.weight) for source in sources):
        raise MergeRefused("Weights are finite numbers.")
    for source, config in zip(sources, configs, strict=True):
        named = str(config["base_model_name_or_path"]).rstrip("/")
        if Path(named).name.lower() != base.name.lower():
            raise MergeRefused(
                f"{source.model} was trained on {named!r}, and the base model here is"
                f" {base.name!r}: only adapters of one base can be merged."
            )
    ranks = [config["r"] for config in configs]
    if plan.method != "linear" and len(set(ranks)) > 1:
        told = ", ".join(f"{s.model} {rank}" for s, rank in zip(sources, ranks, strict=True))
        raise MergeRefused(
            f"{plan.method} takes adapters of one rank, and these have {told}: merge them by"
            " linear."
        )


def _by_peft(
    base: Path, sources: Sequence[Source], plan: Plan
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the merged adapter's matrices and its configuration."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    # Bare numbers would be taken for the names of layers.
    names = [f"source{place}" for place in range(len(sources))]
    first, *others = zip(names, sources, strict=True)
    adapted = PeftModel.from_pretrained(model, first[1].folder, adapter_name=first[0]).float()
    for name, source in others:
        adapted.load_adapter(source.folder, adapter_name=name)
    adapted.float()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(plan.seed)
        try:
            adapted.add_weighted_adapter(
                names,
                [source.weight for source in sources],
                "default",
                combination_type="cat" if plan.method == "linear" else plan.method,
                density=plan.density,
            )
        except (ValueError, TypeError) as error:
            raise MergeRefused(f"PEFT cannot merge them: {error}") from error
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return state, adapted.peft_config["default"].to_dict()


def _of_rank(state: Mapping[str, Any], rank: int) -> tuple[dict[str, Any], float]:
    """Give every module's B A its best approximation of a rank, and the share that is kept."""
    import torch

    fitted: dict[str, Any] = {}
    kept = whole = 0.0
    for name_a in (name for name in state if name.endswith("lora_A.weight")):
        name_b = name_a.replace("lora_A", "lora_B")
        # B A = Qb (Rb Ra') Qa': the small matrix in the middle has all the singular values.
        q_b, r_b = torch.linalg.qr(state[name_b].double())
        q_a, r_a = torch.linalg.qr(state[name_a].double().T)
        left, values, right = torch.linalg.svd(r_b @ r_a.T)
        half = values[:rank].sqrt()
        fitted[name_b] = _padded(q_b @ left[:, :rank] * half, rank, 1)
        fitted[name_a] = _padded(half[:, None] * (right[:rank] @ q_a.T), rank, 0)
        kept += float((values[:rank] ** 2).sum())
        whole += float((values**2).sum())
    return fitted, kept / whole if whole else 1.0


def _padded(matrix: Any, rank: int, dim: int) -> Any:
    """Fill up with zeros what is narrower than the rank."""
    import torch

    missing = list(matrix.shape)
    missing[dim] = rank - matrix.shape[dim]
    return torch.cat([matrix, matrix.new_zeros(missing)], dim).float()


def _prompts(manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Take prompts of the adapters' fingerprints in turn, each once."""
    theirs = [(manifest.get("fingerprint") or {}).get("prompts", ()) for manifest in manifests]
    in_turn = (prompt for prompt in chain(*zip_longest(*theirs)) if prompt is not None)
    return list({tuple(prompt["token_ids"]): prompt for prompt in in_turn}.values())[:PROMPTS]
