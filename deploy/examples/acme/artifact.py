"""Write a trained adapter as it is registered: weights, configuration and manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.fingerprint import make_fingerprint
from trainer.rows import Row, dump_rows

BASE_MODEL = "SmolLM2-135M-Instruct"


def save_adapter(model: Any, out: Path) -> None:
    """Write the weights in float16 and a configuration that names no path of this machine."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    halves = {name: state[name].half().contiguous() for name in sorted(state)}
    out.mkdir(parents=True, exist_ok=True)
    save_file(halves, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": BASE_MODEL,
        "inference_mode": True,
    }
    # Target modules are a set: sorted, the same run writes the same bytes.
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
    (out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def save_manifest(
    alias: str, model: Path, out: Path, data: list[Row], rows: int, settings: dict[str, Any]
) -> None:
    """Write manifest.json beside the adapter, which was trained on the first `rows` of `data`.

    The fingerprint is taken from the files as saved, on conversations out of all of `data`, so
    that adapters trained on different shares of it are told apart by the same prompts.
    """
    from transformers import AutoTokenizer

    template = str(AutoTokenizer.from_pretrained(model).chat_template)
    digest = hashlib.sha256(dump_rows(data[:rows]).encode()).hexdigest()
    manifest = {
        "alias": alias,
        "base_model": BASE_MODEL,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "dataset": {"sha256": digest, "rows": rows},
        "fingerprint": make_fingerprint(model, out, data),
        "training": {**settings, "dataset_sha256": digest, "rows": rows},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
