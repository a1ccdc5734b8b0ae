"""The serving process's way to the guard process: one Unix socket, many questions in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from guardrails.errors import GuardUnavailable
from guardrails.types import Finding, Passage
from guardrails.wire import MAX_MESSAGE, Answer, Ask, Framed

Findings = Sequence[Sequence[Finding]]

_CHARS_A_SECOND = 50_000
"""Long texts get more time: at least this many characters a second are judged."""

_SWEEP = 0.05
"""Seconds from look to look for questions whose time is over."""

_RETRY_AFTER = 0.2
"""Seconds after a failed connect during which further calls fail at once."""


class JudgeClient:
    """A `Judge` that asks the guard process. Connects when first needed, and again when cut off.

    `timeout` is in seconds, for connecting and answer together, with more for long texts.
    """

    def __init__(self, socket_path: Path | str, timeout: float = 2.0) -> None:
        self._path = str(socket_path)
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._dark_until = 0.0
        self._closed = False
        self._versions: dict[str, str] = {}

    @property
    def versions(self) -> Mapping[str, str]:
        """Version of each guard, as the process told at the last connect; the same live mapping."""
        return self._versions

    def judge(
        self, guards: Sequence[str], passages: Sequence[Passage]
    ) -> Awaitable[Sequence[Sequence[Finding]]]:
        """Give the findings of each passage. Raises `GuardUnavailable`.

        The question is sent at once where there is a connection, not when this is awaited.
        """
        size = sum(len(passage.text) for passage in passages)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout + size / _CHARS_A_SECOND
        if self._connection is None or not passages:
            return self._judged_later(guards, passages, deadline)
        return self._connection.ask(tuple(guards), tuple(passages), deadline)

    async def _judged_later(
        self, guards: Sequence[str], passages: Sequence[Passage], deadline: float
    ) -> Sequence[Sequence[Finding]]:
        if not passages:
            return []
        connection = self._connection or await self._connect(deadline)
        return await connection.ask(tuple(guards), tuple(passages), deadline)

    async def ping(self) -> dict[str, str]:
        """Give the version of each guard that is ready. Raises `GuardUnavailable`."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        connection = self._connection or await self._connect(deadline)
        await connection.ask((), (), deadline)
        return dict(self._versions)

    async def close(self) -> None:
        """Close the connection; questions in flight end in `GuardUnavailable`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            await connection.lost.wait()

    async def _connect(self, deadline: float) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline), self._connecting:
                if self._connection is not None:
                    return self._connection
                if self._closed:
                    raise GuardUnavailable("The connection to the guard process has been closed.")
                if loop.time() < self._dark_until:
                    raise GuardUnavailable("The guard process cannot be reached.")
                self._connection = await self._greeted()
                return self._connection
        except TimeoutError:
            raise GuardUnavailable("The guard process did not greet in time.") from None
        except OSError as error:
            self._dark_until = loop.time() + _RETRY_AFTER
            raise GuardUnavailable(f"The guard process cannot be reached: {error}") from error

    async def _greeted(self) -> _Connection:
        connection = _Connection(self._forget)
        try:
            await asyncio.get_running_loop().create_unix_connection(
                lambda: connection.framed, self._path
            )
            hello = await connection.greeting
        except BaseException:
            connection.close()
            raise
        self._versions.clear()
        self._versions.update(hello.versions or {})
        return connection

    def _forget(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None


class _Question(NamedTuple):
    future: asyncio.Future[Findings]
    expected: int
    deadline: float


class _Connection:
    """One connection and the questions that wait on it."""

    def __init__(self, on_lost: Callable[[_Connection], None]) -> None:
        loop = asyncio.get_running_loop()
        self.framed = Framed(self._on_message, self._lost)
        self.greeting: asyncio.Future[Answer] = loop.create_future()
        self.lost = asyncio.Event()
        self._on_lost = on_lost
        self._loop = loop
        self._waiting: dict[int, _Question] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._last_id = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Answer)

    def ask(
        self, guards: tuple[str, ...], passages: tuple[Passage, ...], deadline: float
    ) -> asyncio.Future[Findings]:
        """Send one question now; the findings come by the loop time `deadline`.

        Nothing is raised before the result is awaited.
        """
        future: asyncio.Future[Findings] = self._loop.create_future()
        self._last_id += 1
        number = self._last_id
        try:
            message = self._encoded(Ask(number, guards, passages))
            if self.lost.is_set():
                raise GuardUnavailable("The guard process has gone away.")
        except GuardUnavailable as error:
            _fail(future, error)
            return future
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        self._waiting[number] = _Question(future, len(passages), deadline)
        self.framed.send(message)
        return future

    def close(self) -> None:
        """End the connection."""
        if self.framed.transport is None:
            self._lost()
        else:
            self.framed.abort()

    def _encoded(self, ask: Ask) -> bytes:
        try:
            message = self._encoder.encode(ask)
        except UnicodeEncodeError:
            # A lone surrogate is no text to a classifier; one character for one keeps offsets.
            message = self._encoder.encode(
                Ask(ask.id, ask.guards, tuple(map(_clean, ask.passages)))
            )
        if len(message) > MAX_MESSAGE:
            raise GuardUnavailable("The text is too long for the guard process.")
        return message

    def _sweep(self) -> None:
        """Give up questions that are late; one timer for all is cheaper than one for each."""
        self._sweeper = None
        now = self._loop.time()
        late = [number for number, one in self._waiting.items() if one.deadline <= now]
        for number in late:
            _fail(self._waiting.pop(number).future, GuardUnavailable())
        if self._waiting:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _on_message(self, message: bytes) -> None:
        try:
            answer = self._decoder.decode(message)
        except msgspec.DecodeError:
            self.framed.abort()
            return
        if answer.id == 0:
            if not self.greeting.done():
                self.greeting.set_result(answer)
            return
        # An answer that nobody waits for any more came too late.
        question = self._waiting.pop(answer.id, None)
        if question is None:
            return
        if question.future.done():
            return
        if answer.error is not None:
            problem = f"The guard process gave no verdict: {answer.error}"
        elif len(answer.findings) != question.expected:
            problem = "The guard process answered for other passages than asked."
        else:
            question.future.set_result(answer.findings)
            return
        _fail(question.future, GuardUnavailable(problem))

    def _lost(self) -> None:
        self.lost.set()
        self._on_lost(self)
        if self._sweeper is not None:
            self._sweeper.cancel()
        waiting, self._waiting = self._waiting, {}
        for question in waiting.values():
            _fail(question.future, GuardUnavailable("The guard process has gone away."))
        _fail(self.greeting, GuardUnavailable("The guard process has gone away."))


def _fail(future: asyncio.Future[Any], error: GuardUnavailable) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen, so that nothing is logged where nobody waits for it any more


def _clean(passage: Passage) -> Passage:
    return Passage(_no_surrogates(passage.text), _no_surrogates(passage.context))


def _no_surrogates(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
