"""Keeps llama-server running with the adapters that are needed now.

llama-server takes adapters only when it starts. So for another set a second one is started beside
the first, gets calls once it has proven what the first one serves, and then replaces it: the first
is no longer listed, and ends when no gateway calls it any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.registry.snapshot import Version

logger = logging.getLogger(__name__)

START_S = 180.0
"""For reading the model and its adapters."""
SILENT_S = START_S
"""For a second server that is listed and does not answer the controller, or has begun again."""
PROVE_S = 300.0
"""For proving on a new server what the old one serves, once the controller has seen it."""
DRAIN_S = 600.0
"""For the calls on an old server to end."""
TRIES = 3
HOLD_S = 300.0
"""How long adapters are left out that cannot be converted, or with which it does not start."""
SETTLE_S = 20.0
"""Between two exchanges: versions beyond the room, all of them called, would bring one a second."""
MOST_LEAVING = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What the registry says now.

    `wanted` are the versions to hold, the most needed first. `healthy` tells of each known worker,
    `proven` the worker-side names that gateways may call on it. A worker is `called` while it is
    known, and while gateways have calls to it; they may send more to any while one is `behind`.
    """

    wanted: Sequence[Version] = ()
    healthy: Mapping[str, bool] = field(default_factory=dict)
    proven: Mapping[str, Collection[str]] = field(default_factory=dict)
    called: Collection[str] = ()
    behind: bool = False


class Server(Protocol):
    """A llama-server as `deploy.llamacpp.server.Server` runs it."""

    port: int
    adapters: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether it answers."""
        ...

    @property
    def busy(self) -> bool:
        """Whether it has calls."""
        ...

    def restart(self) -> None:
        """Run it again as it was."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class Surroundings(Protocol):
    """What the keeper acts on."""

    def look(self) -> Facts | None:
        """Read the registry; None while it does not answer."""
        ...

    def start(self, adapters: Sequence[str]) -> Server:
        """Start a server on a port of its own."""
        ...

    def worker(self, server: Server) -> str:
        """Tell what the registry calls a server."""
        ...

    def announce(self, servers: Sequence[Server], left_out: Mapping[str, str]) -> None:
        """Have these servers get calls, and no others; tell what they run without, and why."""
        ...

    def prepare(self, version: Version) -> str | None:
        """Convert an adapter where that is not done yet; why it cannot be, else None."""
        ...

    def clean(self, server: Server, kept: Iterable[str]) -> None:
        """Forget a server that has ended, and the converted adapters that are not `kept`."""
        ...


@dataclass(slots=True)
class _Kept:
    """A server, since when it is what it is now, and how often it has ended without answering."""

    server: Server
    since: float
    listed: bool = False
    seen_at: float | None = None
    silent_since: float | None = None
    ended: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class _Held:
    """Why an adapter is left out, and until when."""

    until: float
    reason: str


class Keeper:
    """Takes one step at a time; nothing in it waits, save for conversions and starts."""

    def __init__(
        self, around: Surroundings, room: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._around = around
        self._room = room
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._told: Mapping[str, str] = {}
        self._next: _Kept | None = None
        self._not_before = clock()
        self._leaving: list[_Kept] = []
        self._announced = False
        facts = around.look()
        self._current = self._started(self._wanted(facts) if facts else ())
        self._tell(facts or Facts())

    @property
    def servers(self) -> list[Server]:
        """The servers that run, the one that gets calls first."""
        kept = [self._current, *filter(None, [self._next]), *self._leaving]
        return [one.server for one in kept]

    def step(self) -> None:
        """Do what is due; what fails comes again, while the servers that run go on."""
        try:
            self._step()
        except Exception as error:  # no room on the disk, no further process
            logger.error("a step fails, and comes again: %s: %s", type(error).__name__, error)

    def _step(self) -> None:
        facts = self._around.look()
        if not self._announced:
            self._announce()
        self._revive()
        if facts is None:
            return
        self._let_go(facts)
        if self._next is None:
            self._begin(facts)
        else:
            self._advance(self._next, facts)
        if self._left_out(facts) != self._told:
            self._tell(facts)

    def stop(self) -> None:
        """End every server."""
        for server in self.servers:
            server.stop()

    # -- which adapters ----------------------------------------------------------------------------

    def _wanted(self, facts: Facts) -> list[str]:
        """Name the adapters to hold, as far as they can be had."""
        now, names = self._clock(), list[str]()
        for version in facts.wanted:
            name = version.worker_name
            if len(names) == self._room:
                break
            if name in self._held and self._held[name].until > now:
                continue
            if reason := self._around.prepare(version):
                logger.error("%s is left out: %s", name, reason)
                self._held[name] = _Held(now + HOLD_S, reason)
            else:
                self._held.pop(name, None)
                names.append(name)
        return names

    def _hold(self, names: Collection[str], what: str = "start") -> None:
        """Leave adapters out for a while: with them the server does not do that."""
        reason = f"llama-server does not {what} with {', '.join(sorted(names)) or 'any model'}"
        logger.error("%s", reason)
        self._held |= dict.fromkeys(names, _Held(self._clock() + HOLD_S, reason))

    def _left_out(self, facts: Facts) -> dict[str, str]:
        """Give the reasons for which adapters are left out that are wanted."""
        wanted = {version.worker_name for version in facts.wanted}
        return {name: held.reason for name, held in self._held.items() if name in wanted}

    def _tell(self, facts: Facts) -> None:
        self._told = self._left_out(facts)
        self._announce()

    # -- servers -----------------------------------------------------------------------------------

    def _started(self, adapters: Sequence[str]) -> _Kept:
        server = self._around.start(adapters)
        holding = ", ".join(adapters) or "no adapter"
        logger.info("llama-server starts on port %d with %s", server.port, holding)
        return _Kept(server, self._clock())

    def _announce(self) -> None:
        self._announced = False
        self._current.listed = True
        both = [self._current, *([self._next] if self._next and self._next.listed else [])]
        self._around.announce([kept.server for kept in both], self._told)
        self._announced = True

    def _revive(self) -> None:
        """Run servers again that have ended; one that never starts is tried without its news."""
        now = self._clock()
        for kept in filter(None, [self._current, self._next]):
            if kept.server.alive:
                if kept.ended and kept.server.healthy:
                    kept.ended = 0
                continue
            if now < kept.not_before:
                continue
            kept.ended += 1
            if kept.ended > TRIES and self._without_news(kept):
                continue
            logger.warning("llama-server on port %d has ended: again", kept.server.port)
            kept.server.restart()
            kept.silent_since = None
            kept.not_before = now + min(2.0 ** (kept.ended - 1), 30.0)

    def _without_news(self, kept: _Kept) -> bool:
        """Give up a set of adapters with which the server keeps ending; whether there was one."""
        if kept is self._next:
            self._abandon(kept)
            return True
        if not kept.server.adapters:
            return False
        self._hold(kept.server.adapters)
        self._current = self._started(())
        self._leaving.append(kept)
        self._announce()
        return True

    def _begin(self, facts: Facts) -> None:
        """Start a second server where an adapter is missing."""
        if len(self._leaving) >= MOST_LEAVING or self._clock() < self._not_before:
            return
        names = self._wanted(facts)
        if not set(names) <= set(self._current.server.adapters):
            self._next = self._started(names)

    def _advance(self, kept: _Kept, facts: Facts) -> None:
        """Bring the second server one stage further."""
        now, worker = self._clock(), self._around.worker(kept.server)
        if not kept.listed:
            if kept.server.healthy:
                kept.listed = True
                self._announce()
            elif now - kept.since > START_S:
                self._abandon(kept)
            return
        if not facts.healthy.get(worker):
            # Nobody would call it: it is silent, or the controller has not looked yet.
            if self._is_silent(kept, known=worker in facts.healthy):
                self._abandon(kept, "answer")
            return
        kept.silent_since = None
        if kept.seen_at is None:
            kept.seen_at = now
        current = self._around.worker(self._current.server)
        wanted = {version.worker_name for version in facts.wanted} & set(kept.server.adapters)
        missing = (set(facts.proven.get(current, ())) & wanted) - set(facts.proven.get(worker, ()))
        if missing and now - kept.seen_at < PROVE_S:
            return
        if missing:
            logger.error("not proven in time on the new llama-server: %s", ", ".join(missing))
        self._current.since, self._not_before = now, now + SETTLE_S
        self._leaving.append(self._current)
        self._current, self._next = kept, None
        self._announce()

    def _is_silent(self, kept: _Kept, *, known: bool) -> bool:
        """Whether a server has not answered for long; one that is not `known` was not asked."""
        if not known or kept.silent_since is None:
            kept.silent_since = self._clock() if known else None
            return False
        return self._clock() - kept.silent_since > SILENT_S

    def _abandon(self, kept: _Kept, what: str = "start") -> None:
        self._hold(set(kept.server.adapters) - set(self._current.server.adapters), what)
        self._next = None
        kept.since = self._clock()
        self._leaving.append(kept)
        self._announce()

    def _let_go(self, facts: Facts) -> None:
        """End old servers that nobody calls any more."""
        for kept in list(self._leaving):
            late = self._clock() - kept.since > DRAIN_S
            known = self._around.worker(kept.server) in facts.called
            called = facts.behind or known or kept.server.busy
            if called and kept.server.alive and not late:
                continue
            logger.info("llama-server on port %d ends", kept.server.port)
            kept.server.stop()
            self._leaving.remove(kept)
            held = {name for server in self.servers for name in server.adapters}
            wanted = {version.worker_name for version in facts.wanted}
            self._around.clean(kept.server, held | wanted)
