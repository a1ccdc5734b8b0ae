"""The shapes of a base model's linear modules, from the headers of its safetensors files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from gateway.registry.safetensors_header import BadSafetensors, TensorInfo, read_header

_FLOATS = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class BaseModelShapes:
    """Knows a base model's modules; reads the headers when first asked, and no weights.

    Where the folder holds no safetensors (a GGUF file, say) everything is taken to fit: the proof
    of effect on a worker decides.
    """

    def __init__(self, folder: Path) -> None:
        """Take the model's folder."""
        self._folder = folder

    @cached_property
    def _tensors(self) -> dict[str, TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                found.update(read_header(path))
            except (OSError, BadSafetensors):
                # A base that is being written or is broken is for its worker to report.
                return {}
        return found

    @cached_property
    def _modules(self) -> frozenset[str]:
        """Every module that has parameters, under its own name and without the outermost part.

        Checkpoints differ in whether that part (`model`, `transformer`) is in their names.
        """
        modules = {name.rpartition(".")[0] for name in self._tensors}
        return frozenset(modules | {_inner(name) for name in modules})

    def knows(self, module: str) -> bool:
        """Whether the base model has this module, or its modules are not known at all."""
        names = self._modules
        if not names or module in names or _inner(module) in names:
            return True
        return module == "lm_head" and self._embedding is not None

    def linear(self, module: str) -> tuple[int, int] | None:
        """Give (outputs, inputs) of a linear module; None where the file does not tell.

        Quantised weights are packed, so their shapes do not tell.
        """
        for name in (f"{module}.weight", f"model.{module}.weight", f"{_inner(module)}.weight"):
            info = self._tensors.get(name)
            if info is not None:
                return _matrix(info)
        return self._embedding if module == "lm_head" else None

    @cached_property
    def _embedding(self) -> tuple[int, int] | None:
        """The token embedding's shape, which an output head that is tied to it shares."""
        for name, info in self._tensors.items():
            if name.endswith("embed_tokens.weight"):
                return _matrix(info)
        return None


def _matrix(info: TensorInfo) -> tuple[int, int] | None:
    if info.dtype not in _FLOATS or len(info.shape) != 2:
        return None
    return info.shape[0], info.shape[1]


def _inner(name: str) -> str:
    return name.partition(".")[2] or name
