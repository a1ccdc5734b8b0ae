"""Loads on demand: a call has come for a version that no worker has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from gateway.errors import GatewayError
from gateway.registry.snapshot import Placement, Version
from gateway.rendezvous import number, weight
from gateway.workers.loader import Loader
from gateway.workers.probe import WorkerWatch

logger = logging.getLogger(__name__)

_REST_S = 1.0
"""After a load that failed: the next caller may try again, but not in a tight circle."""


class LoadsOnDemand:
    """The loads that calls have begun and that go on; `in` tells of a version's id."""

    def __init__(self, watch: WorkerWatch, loader: Loader, group: asyncio.TaskGroup) -> None:
        self._watch = watch
        self._loader = loader
        self._group = group
        self._loading: set[int] = set()

    def __contains__(self, version_id: int) -> bool:
        return version_id in self._loading

    def ask(self, version: Version, placements: Iterable[Placement]) -> None:
        """See to it that a version which nobody has is loaded; the loader joins doubles.

        A free slot is used at once, on the worker that the other gateways choose too. Where there
        is none, the recorded use makes the controller clear one.
        """
        if version.is_base or version.id in self._loading:
            return
        known = {placement.worker: placement for placement in placements}
        able = []
        for seen in self._watch.observed.values():
            if not seen.healthy or not seen.fits(version):
                continue
            placement = known.get(seen.worker)
            if placement is None and seen.serves(version):
                return  # being proven there, or on its way off: for others to finish
            if placement is None and self._loader.has_room(seen, version):
                able.append(seen.worker)
            elif placement is not None and placement.routable and seen.same_boot(placement):
                return  # proven, and seen as soon as the worker is looked at again
        if able:
            mixed = number(version.worker_name)
            worker = max(able, key=lambda name: weight(mixed, name))
            self._loading.add(version.id)
            self._group.create_task(self._load(worker, version), name=f"load {version.model}")

    async def _load(self, worker: str, version: Version) -> None:
        try:
            await self._loader.ensure(worker, version)
        except GatewayError as error:
            logger.warning("loading %s on %s: %s", version.model, worker, error)
            await asyncio.sleep(_REST_S)
        except Exception:  # in a group with all else that the gateway does
            logger.exception("loading %s on %s", version.model, worker)
            await asyncio.sleep(_REST_S)
        finally:
            self._loading.discard(version.id)
