"""What was called and when, until the registry has been told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Uses:
    """Remembers by version id when it was last called."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._untold: dict[int, float] = {}

    def note(self, version_id: int) -> None:
        """Note that a version is used now."""
        self._untold[version_id] = self._clock()

    @contextmanager
    def telling(self) -> Iterator[Mapping[int, float]]:
        """Give what is untold, as seconds since the use; it stays untold where the block fails."""
        now, told = self._clock(), self._untold
        self._untold = {}
        try:
            yield {version_id: now - at for version_id, at in told.items()}
        except BaseException:
            self._untold = {**told, **self._untold}
            raise
