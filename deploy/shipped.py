"""The example adapters that a new home starts with."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.compose import EXAMPLES
from deploy.home import Home
from deploy.keyring import TENANT
from deploy.progress import Progress
from gateway.errors import GatewayError
from gateway.registry.service import Registry
from gateway.registry.snapshot import Version, VersionState

ACTOR = "adapterloop up"
VERIFY_SECONDS = 180.0
_FOLDER = re.compile(r"(?P<alias>[a-z0-9][a-z0-9._-]*)-(?P<number>[1-9][0-9]*)")


def folders(root: Path = EXAMPLES) -> Iterator[tuple[str, Path]]:
    """Yield alias and folder of each shipped adapter (`support-1`), by alias and number."""
    matches = [(_FOLDER.fullmatch(path.name), path) for path in root.glob("*-*") if path.is_dir()]
    ordered = sorted((m["alias"], int(m["number"]), path) for m, path in matches if m)
    for alias, _, path in ordered:
        yield alias, path


def register_examples(home: Home, registry: Registry, progress: Progress) -> list[Version]:
    """Register the shipped adapters in a home that has never had them.

    Returns the first of each alias: those are to be promoted once they are verified. An adapter
    that does not fit (another base model) is named and left out.
    """
    if home.examples.exists():
        return []
    first: dict[str, Version] = {}
    for alias, folder in folders():
        try:
            version = registry.register(TENANT, alias, folder, ACTOR)
        except GatewayError as error:
            progress.say(f"example adapter {folder.name} left out: {error}")
            continue
        first.setdefault(alias, version)
    return list(first.values())


def promote_when_verified(registry: Registry, version: Version, progress: Progress) -> bool:
    """Wait for the controller's proof that `version` has effect, then promote it."""
    deadline = time.monotonic() + VERIFY_SECONDS
    while time.monotonic() < deadline:
        now = registry.version(version.tenant, version.alias, version.number)
        match now.state:
            case VersionState.CANDIDATE:
                registry.promote(version.tenant, version.alias, version.number, ACTOR)
                progress.say(f"{version.model} is verified and promoted")
                return True
            case VersionState.SERVING:
                return True
            case VersionState.REJECTED | VersionState.RETIRED:
                progress.say(f"{version.model} was {now.state}: see `adapterloop adapters list`")
                return False
            case _:
                progress.waiting(f"verifying {version.model} on the worker ({now.state})")
                time.sleep(0.5)
    progress.say(
        f"{version.model} is not verified yet; later: `adapterloop adapters promote"
        f" {version.alias} {version.number}`"
    )
    return False
