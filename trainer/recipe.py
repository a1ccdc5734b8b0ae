"""How an adapter is trained: everything that a person may set, with defaults by the data's size."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """Settings of one training run; they go into the adapter's manifest as they were used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["qlora", "lora"] = Field(
        "qlora", description="qlora: over a base in NF4 with double quantisation"
    )
    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="peak; a cosine follows the warm-up")
    epochs: float | None = Field(None, gt=0, le=100, description="default: by the number of rows")
    batch: int = Field(4, ge=1, le=1024)
    max_length: int = Field(512, ge=16, description="tokens of a row; longer ones are cut")
    seed: int = Field(7, ge=0)

    def for_rows(self, rows: int) -> Recipe:
        """Give the recipe with its epochs settled: few rows are seen more often."""
        if self.epochs is not None:
            return self
        epochs = next(e for bound, e in _EPOCHS if rows <= bound)
        return self.model_copy(update={"epochs": epochs})


_EPOCHS = ((500, 6.0), (1000, 4.0), (5000, 2.0), (float("inf"), 1.0))
