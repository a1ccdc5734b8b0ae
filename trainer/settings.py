"""What the trainer is told: read once, frozen, passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from trainer.recipe import Recipe


class EvaluationSettings(BaseModel):
    """How golden queries are asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(64, gt=0)
    at_once: int = Field(16, gt=0, description="queries that wait for an answer at a time")
    patience: float = Field(300.0, gt=0, description="seconds that one query is tried for")


class TrainerSettings(BaseModel):
    """How refreshes train, and what their candidates are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe = Recipe()
    recipes: Mapping[str, Recipe] = Field({}, description="other recipes, by alias")
    evaluation: EvaluationSettings = EvaluationSettings()
    minimum_rows: int = Field(20, ge=4, description="fewer are not trained on")
    anchor: int | None = Field(
        None, ge=0, description="a version that candidates must not fall behind either; 0: the base"
    )
    gate_policy: Path | None = Field(None, description="default: the one that is shipped")
    threads: int | None = Field(None, gt=0, description="default: one for each core")
    verify_seconds: float = Field(300.0, gt=0, description="wait for a worker's proof of effect")

    def recipe_for(self, alias: str) -> Recipe:
        """Give the recipe of an alias."""
        return self.recipes.get(alias, self.recipe)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the gateway is, the keys to it, the base model's folder, and where runs are kept."""

    url: str
    key: str
    evaluation_key: str
    model: Path
    runs: Path
    settings: TrainerSettings
