"""A trained adapter as it is registered: weights, configuration and manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.fingerprint import make_fingerprint
from trainer.rows import Row

FILES = ("adapter_config.json", "adapter_model.safetensors", "manifest.json")


def save_adapter(model: Any, base_model: str, out: Path) -> None:
    """Write a PEFT model's adapter."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    write_adapter(state, model.peft_config["default"].to_dict(), base_model, out)


def write_adapter(
    state: Mapping[str, Any], config: Mapping[str, Any], base_model: str, out: Path
) -> None:
    """Write the weights in float16 and a configuration that names no path of this machine."""
    from safetensors.torch import save_file

    halves = {name: state[name].half().contiguous() for name in sorted(state)}
    out.mkdir(parents=True, exist_ok=True)
    save_file(halves, out / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {**config, "base_model_name_or_path": base_model, "inference_mode": True}
    # Target modules are a set: sorted, the same run writes the same bytes.
    text = json.dumps(told, indent=2, sort_keys=True, default=sorted)
    (out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def save_manifest(
    alias: str,
    model: Path,
    out: Path,
    rows: Sequence[Row],
    dataset: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the manifest of a trained adapter.

    The fingerprint is taken from the files as saved, on conversations out of `rows`. `dataset` and
    `training` say what it was trained on, and how.
    """
    from transformers import AutoTokenizer

    template = str(AutoTokenizer.from_pretrained(model).chat_template)
    manifest = {
        "alias": alias,
        "base_model": model.name,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "dataset": dict(dataset),
        "fingerprint": make_fingerprint(model, out, rows),
        "training": dict(training),
    }
    write_manifest(manifest, out)


def write_manifest(manifest: Mapping[str, Any], out: Path) -> None:
    """Write manifest.json beside an adapter; its being there means that the adapter is whole."""
    draft = out / ".manifest"
    draft.write_text(json.dumps(dict(manifest), indent=1) + "\n", encoding="utf-8")
    draft.replace(out / "manifest.json")
