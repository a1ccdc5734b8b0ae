"""What every part of the registry stands on: an engine, a clock, and two kinds of transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine

from gateway.registry import writes
from gateway.registry.db import reading, server_time, writing

Clock = Callable[[Connection], float]


class Store:
    """Opens transactions: one per operation, reads and writes apart.

    A `_change` is a write that gateways must see. It first locks the revision, so changes happen
    one after another whatever the number of processes, and a higher revision is never visible
    before a lower one; the caller bumps the revision where something did change.
    """

    def __init__(self, engine: Engine, clock: Clock = server_time) -> None:
        """Take the engine; `clock` is given an open connection, as the server's clock may rule."""
        self._engine = engine
        self._clock = clock

    def _read(self) -> AbstractContextManager[Connection]:
        return reading(self._engine)

    def _write(self) -> AbstractContextManager[Connection]:
        return writing(self._engine)

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        with writing(self._engine) as connection:
            writes.lock_revision(connection)
            yield connection
