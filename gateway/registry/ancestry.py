"""What versions were made of: data sets, and other versions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from gateway.registry.store import Store
from gateway.registry.tables import VERSIONS


@dataclass(frozen=True, slots=True)
class Trained:
    """A version that was trained on a data set, or merged of versions (digests) that were."""

    model: str
    state: str
    sha256: str
    dataset: str | None
    merged_from: frozenset[str]


class Ancestry(Store):
    """The registry's answer to what a version knows."""

    def trained_on(
        self, tenant: str, datasets: Collection[str], versions: Collection[tuple[str, int]] = ()
    ) -> list[Trained]:
        """Give the versions that were trained on any of these data sets, by alias and number.

        Those count by what their manifests say, these `versions` (alias, number) anyway, and so do
        merges of any of them.
        """
        with self._read() as connection:
            every = _versions(connection, tenant)
        named = {f"{alias}@{number}" for alias, number in versions}
        found = {one.sha256 for one in every if one.dataset in datasets or one.model in named}
        while more := {one.sha256 for one in every if one.merged_from & found} - found:
            found |= more
        return [one for one in every if one.sha256 in found]


def _versions(connection: Connection, tenant: str) -> list[Trained]:
    manifest = VERSIONS.c.manifest
    query = (
        select(
            VERSIONS.c.alias,
            VERSIONS.c.number,
            VERSIONS.c.state,
            VERSIONS.c.sha256,
            manifest[("dataset", "sha256")].as_string(),
            manifest["merged_from"],
        )
        .where(VERSIONS.c.tenant == tenant)
        .order_by(VERSIONS.c.alias, VERSIONS.c.number)
    )
    return [
        Trained(f"{alias}@{number}", state, sha256, dataset, _digests(merged))
        for alias, number, state, sha256, dataset, merged in connection.execute(query)
    ]


def _digests(merged: Any) -> frozenset[str]:
    # A manifest is what its uploader wrote.
    sources = merged if isinstance(merged, list) else []
    return frozenset(str(one.get("sha256")) for one in sources if isinstance(one, dict))
