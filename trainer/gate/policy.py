"""What the gate asks of a candidate: margins and levels, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import GatePolicyInvalid


class SlicePolicy(BaseModel):
    """What one slice must show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Strict: YAML's `yes` is no number.
    margin: float | None = Field(None, gt=0, lt=0.5, strict=True)
    must_improve: bool | None = None


class GatePolicy(BaseModel):
    """What all slices must show; shares and differences lie between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(0.05, gt=0, lt=0.5, description="of both tests; intervals are 1 - alpha")
    margin: float = Field(
        0.10, gt=0, lt=0.5, strict=True, description="a loss that non-inferiority rules out"
    )
    minimum_items: int = Field(20, ge=2, description="a slice with fewer cannot pass")
    slices: Mapping[str, SlicePolicy] = {}
    resamples: int = Field(10_000, ge=1000, le=1_000_000)
    seed: int = 7
    examples: int = Field(10, ge=0, description="changed items shown of each kind")

    def margin_of(self, slice_: str) -> float:
        """Give the margin of a slice."""
        own = self.slices.get(slice_, SlicePolicy()).margin
        return self.margin if own is None else own

    def must_improve(self, slice_: str, target: frozenset[str]) -> bool:
        """Whether a slice must get better: as the policy says, else where the refresh aims at."""
        own = self.slices.get(slice_, SlicePolicy()).must_improve
        return slice_ in target if own is None else own


class GatePolicies(BaseModel):
    """A default, and policies by alias, which take from the default what they do not set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: GatePolicy = GatePolicy()
    aliases: Mapping[str, GatePolicy] = {}

    @model_validator(mode="before")
    @classmethod
    def _over_the_default(cls, value: Any) -> Any:
        match value:
            case {"default": dict(default), "aliases": dict(aliases)}:
                own = {
                    a: {**default, **v} if isinstance(v, dict) else v for a, v in aliases.items()
                }
                return {**value, "aliases": own}
        return value

    def for_alias(self, alias: str) -> GatePolicy:
        """Give the policy of an alias."""
        return self.aliases.get(alias, self.default)


def load_policy(path: Path | None) -> GatePolicies:
    """Read policies from YAML; the defaults where there is no file. Raises `GatePolicyInvalid`."""
    if path is None:
        return GatePolicies()
    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return GatePolicies.model_validate(value if value is not None else {})
    except OSError as error:
        raise GatePolicyInvalid(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise GatePolicyInvalid(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "file"
        raise GatePolicyInvalid(f"{path}: {name}: {first['msg']}") from None
