"""Which versions fall away when base models change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from gateway.registry.names import model_name
from gateway.registry.snapshot import Snapshot, Version, VersionState

_ENDED = (VersionState.RETIRED, VersionState.REJECTED)


def stranded(snapshot: Snapshot, base_models: Iterable[str]) -> list[Version]:
    """Give the versions made for other base models than these, by alias: none can be called."""
    named = {model_name(model) for model in base_models}
    lost = (
        version
        for version in snapshot.versions.values()
        if not (version.is_base or version.is_merged)
        and version.state not in _ENDED
        and model_name(version.base_model) not in named
    )
    return sorted(lost, key=lambda version: (version.tenant, version.alias, version.number))


def told(versions: Iterable[Version]) -> list[str]:
    """Say of stranded versions, a line for each base model, what becomes of them."""
    lost: dict[str, list[str]] = defaultdict(list)
    for version in versions:
        lost[version.base_model].append(version.model)
    return [
        f"{base} is no base model of this configuration any more, so these get no calls:"
        f" {', '.join(names)}; name it under `bases`, or train them anew"
        for base, names in lost.items()
    ]
