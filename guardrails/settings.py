"""What the guard process is told at start: read once, frozen, passed in."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardrails.errors import GuardError


class GuardSettings(BaseModel):
    """The models that the guard process loads, and how it batches.

    `toxicity` is `alt-profanity-check` or `detoxify:PATH` with the path of a checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    toxicity: str = Field("alt-profanity-check", pattern=r"^(alt-profanity-check|detoxify:.+)$")
    detoxify_config: Path | None = Field(
        None, description="folder of the configuration and tokenizer that Detoxify needs offline"
    )
    personal_data: bool = True
    names: bool = Field(False, description="load spaCy's model for people and places")
    batch: int = Field(64, gt=0, description="most passages that a model sees at once")
    patience: float = Field(10.0, gt=0, description="seconds after which a question is dropped")


def load_settings(path: Path | None) -> GuardSettings:
    """Read the settings from a YAML file; the defaults without one. Raises `GuardError`."""
    if path is None:
        return GuardSettings()
    try:
        return GuardSettings.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
    except (OSError, yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise GuardError(f"{path}: {error}") from error
