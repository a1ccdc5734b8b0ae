"""From the name in a request to the version that answers: a pure function of the snapshot."""

from __future__ import annotations

import hashlib
import random

from gateway.errors import ModelNotFound, NoWorker
from gateway.registry.snapshot import (
    BASE_TENANT,
    CALLABLE,
    Alias,
    Key,
    Snapshot,
    Version,
    VersionState,
    why_left_out,
)


def alias_of(model: str, key: Key, snapshot: Snapshot) -> Alias:
    """Find the alias that `model` (`support` or `support@7`) speaks of, as this key may see it.

    Raises `ModelNotFound` for what does not exist and for what the key may not call, alike.
    """
    name = model.partition("@")[0]
    alias = snapshot.aliases.get((key.tenant, name)) or snapshot.aliases.get((BASE_TENANT, name))
    if alias is None or (key.aliases is not None and name not in key.aliases):
        raise _unknown(model)
    return alias


def resolve(model: str, alias: Alias, session: str | None, snapshot: Snapshot) -> Version:
    """Give the version to call.

    `alias@version` pins one. An alias leads to its stable version, or by the rollout's weight to
    the candidate: sticky by `session`, random per call without one; raising the weight only ever
    moves callers from stable to candidate. Each candidate draws callers of its own.
    """
    _, pinned, number = model.partition("@")
    if pinned:
        return _pinned(model, alias, number, snapshot)
    candidate = alias.candidate
    if candidate and _share(f"{alias.name}@{candidate.number}", session) < alias.weight:
        return candidate
    if alias.stable is None:
        raise ModelNotFound(
            f"The model '{model}' has no promoted version yet: promote one, or call a version "
            f"such as '{model}@1'."
        )
    return alias.stable


def shadow_of(model: str, alias: Alias, version: Version, key: Key) -> Version | None:
    """Give the candidate where it is to get a copy of this call, which `version` answers.

    A share of the calls is drawn; those that pin a version, and those of evaluations, never are.
    """
    if "@" in model or version is not alias.stable or key.purpose == "evaluation":
        return None
    drawn = random.random() < alias.shadow  # noqa: S311 (a share of traffic, no secret)
    return alias.candidate if drawn else None


def _pinned(model: str, alias: Alias, number: str, snapshot: Snapshot) -> Version:
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise _unknown(model)
    if int(number) == 0 and alias.tenant != BASE_TENANT:
        version = _base_of(alias)
    else:
        version = snapshot.versions.get((alias.tenant, alias.name, int(number)))
    if version is None or version.draining:
        raise _unknown(model)
    if version.is_base or version.state in CALLABLE:
        return version
    if version.state in (VersionState.REGISTERED, VersionState.VERIFYING):
        if why := why_left_out(version, snapshot.workers.values()):
            raise NoWorker(f"The model '{model}' is on no worker yet. {why}")
        raise NoWorker(f"The model '{model}' is being loaded and verified: try again shortly.")
    raise _unknown(model)


def _base_of(alias: Alias) -> Version | None:
    """Give the base model where the alias leads to it, or has just led to it."""
    led_to = (alias.stable, alias.candidate, alias.previous)
    return next((version for version in led_to if version is not None and version.is_base), None)


def _share(candidate: str, session: str | None) -> float:
    """A number in [0, 1) that stays the same for a session and a candidate.

    Another candidate has other callers: those who met with a bad one would judge the next one too.
    """
    if session is None:
        return random.random()  # noqa: S311 (a share of traffic, no secret)
    digest = hashlib.blake2b(f"{candidate}\0{session}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _unknown(model: str) -> ModelNotFound:
    return ModelNotFound(f"The model '{model}' does not exist or you do not have access to it.")
