"""Where vLLM's layers ask for LoRA on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from .low_rank import Group, add_low_rank, group


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc, unused-ignore]
    """vLLM's wrapper for LoRA on CPUs, with linear layers and logits done by groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: list[Group] = []
        self._sampled: list[Group] = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Note which tokens of the coming step belong to which adapter."""
        super().update_metadata(*args, **kwargs)
        self._groups = group(self.token_lora_indices)
        self._sampled = group(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part to a linear layer's output, whose slices lie side by side."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            part = y[:, start : start + size]
            for one in self._groups:
                add_low_rank(part, x, a, b, scale, one)
            start += size

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part to the logits of the sampled positions."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for one in self._sampled:
            add_low_rank(y, x, lora_a_stacked, lora_b_stacked, scale, one)
