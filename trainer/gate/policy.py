"""The gate's policy: how sure it must be, and how much worse a slice may be.

A file holds one default and overrides per alias; what neither says is as without a file:

    default: {margin: 0.1}
    aliases:
      support:
        superiority: [triage]
        slices:
          facts: {margin: 0.05}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.errors import GatePolicyInvalid

Margin = Annotated[float, Field(gt=0, lt=1)]
Content = Mapping[str, Any]


class _Frozen(BaseModel):
    # Strict, so that `margin: "0.1"` and `minimum_items: yes` are mistakes, not numbers.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SlicePolicy(_Frozen):
    """What holds for one slice in the place of the policy's own numbers."""

    margin: Margin | None = None
    minimum_items: int | None = Field(None, ge=1)


class GatePolicy(_Frozen):
    """How the gate decides on one alias. Shares are 0 to 1: a margin of 0.1 is 10 points."""

    alpha: float = Field(0.05, gt=0, le=0.2, description="error rate of tests and intervals")
    metric: Literal["exact_match"] = "exact_match"
    margin: Margin = Field(0.10, description="exact match that a slice may lose, unproven")
    f1_margin: Margin | None = Field(None, description="the same for F1; without: only reported")
    minimum_items: int = Field(30, ge=1, description="a slice with fewer cannot pass")
    superiority: list[str] = Field([], description="slices to be better on; else the refresh's own")
    slices: dict[str, SlicePolicy] = Field({}, description="by the slice's name")
    resamples: int = Field(10_000, ge=1_000, le=100_000, description="of the bootstrap")
    seed: int = Field(20_260_101, ge=0)
    examples: int = Field(5, ge=0, le=50, description="changed answers to show, of each kind")

    def margin_of(self, name: str) -> float:
        """Give the share of exact match that this slice may lose."""
        own = self.slices.get(name, SlicePolicy()).margin
        return self.margin if own is None else own

    def minimum_items_of(self, name: str) -> int:
        """Give how many items this slice needs to pass."""
        own = self.slices.get(name, SlicePolicy()).minimum_items
        return self.minimum_items if own is None else own

    @property
    def level(self) -> float:
        """Confidence of the intervals."""
        return 1 - self.alpha


class GatePolicies(BaseModel):
    """The default policy and those of aliases that have their own."""

    model_config = ConfigDict(frozen=True)

    default: GatePolicy = GatePolicy()
    aliases: dict[str, GatePolicy] = {}

    def for_alias(self, alias: str) -> GatePolicy:
        """Give the alias's own policy, else the default."""
        return self.aliases.get(alias, self.default)


def load_policy(path: Path | None = None) -> GatePolicies:
    """Read a policy file; without one the built-in policy holds. Raises `GatePolicyInvalid`."""
    if path is None:
        return GatePolicies()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GatePolicyInvalid(f"{path}: {error}") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, source: str = "gate policy") -> GatePolicies:
    """Read policies from YAML. Raises `GatePolicyInvalid` that names the field, or the line."""
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise GatePolicyInvalid(f"{source}, line {line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise GatePolicyInvalid(f"{source}: {error}") from error
    file = _mapping(content, source, "the file")
    if unknown := sorted(str(name) for name in set(file) - {"default", "aliases"}):
        raise GatePolicyInvalid(f"{source}: {unknown[0]}: only `default` and `aliases` stand here")
    default = _mapping(file.get("default"), source, "default")
    aliases = _mapping(file.get("aliases"), source, "aliases")
    return GatePolicies(
        default=_policy(default, source, "default"),
        aliases={
            str(name): _policy(
                _merged(default, _mapping(own, source, f"aliases.{name}")),
                source,
                f"aliases.{name}",
            )
            for name, own in aliases.items()
        },
    )


def _merged(default: Content, own: Content) -> Content:
    """Lay an alias's fields over the default's, and within `slices` each slice's fields too."""
    merged = {**default, **own}
    shared, slices = default.get("slices"), own.get("slices")
    if isinstance(shared, Mapping) and isinstance(slices, Mapping):
        both = {**shared, **slices}
        for name in set(shared) & set(slices):
            if isinstance(shared[name], Mapping) and isinstance(slices[name], Mapping):
                both[name] = {**shared[name], **slices[name]}
        merged["slices"] = both
    return merged


def _policy(content: Content, source: str, place: str) -> GatePolicy:
    try:
        return GatePolicy.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{source}: {'.'.join([place, *map(str, each['loc'])])}: {each['msg']}"
            for each in error.errors()
        ]
        raise GatePolicyInvalid("\n".join(lines)) from error


def _mapping(value: Any, source: str, place: str) -> Content:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise GatePolicyInvalid(f"{source}: {place}: not a mapping of names to values")
    return value
