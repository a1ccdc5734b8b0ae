"""LoRA on a CPU, one matrix product for all tokens of an adapter.

vLLM's own CPU path copies an adapter's matrices once for every token, prompt tokens too, so its
cost is that of memory and grows with the batch. Here the tokens of a step are grouped by adapter
once, and every layer multiplies each group by that adapter's matrices where they lie. It also keeps
adapters away from calls to the base model: vLLM marks those tokens with the index -1, which its own
CPU path takes for the last slot.
"""

from __future__ import annotations

import torch

Group = tuple[int, torch.Tensor | None]
"""An adapter's slot, and the rows of its tokens; None where all rows are its own."""


def group(indices: torch.Tensor) -> list[Group]:
    """Group rows by slot, leaving out those without an adapter (index -1).

    `indices` has shape (tokens,) and holds each token's slot.
    """
    slots = torch.unique(indices).tolist()
    if len(slots) == 1:
        return [] if slots[0] < 0 else [(slots[0], None)]
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]


def add_low_rank(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, group: Group
) -> None:
    """Add `scale * (x @ a.T) @ b.T` of one adapter to `y` in place, for its rows.

    Shapes: y (tokens, out), x (tokens, in), a (slots, 1, rank, in), b (slots, 1, out, rank). An
    adapter may be narrower than `y`, whose padding then stays as it is.
    """
    slot, rows = group
    down, up = a[slot].flatten(0, -2), b[slot].flatten(0, -2)
    own = x if rows is None else x[rows]
    delta = (own.to(down.dtype) @ down.T).mul_(scale) @ up.T
    width = min(delta.shape[1], y.shape[1])
    if rows is None:
        y[:, :width] += delta[:, :width]
    else:
        y[rows, :width] += delta[:, :width].to(y.dtype)
