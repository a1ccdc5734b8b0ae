"""One generation on its way to the client, with the script's delays and faults."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from . import shapes
from .http import JSON, SSE, Cut, Exchange
from .script import Script


class Tally(Protocol):
    """Where calls are counted."""

    aborted: int
    finished: int


class Call:
    """One generation; ends as soon as the client has gone."""

    def __init__(
        self, tally: Tally, script: Script, answer: shapes.Answer, exchange: Exchange
    ) -> None:
        self._tally = tally
        self._script = script
        self._answer = answer
        self._exchange = exchange
        # A watch costs a task, so calls that never wait do without.
        waits = script.delay or script.first_delay or script.fault in ("hang", "stall")
        self._watch = asyncio.ensure_future(exchange.gone()) if waits else None

    async def run(self, extra: list[dict[str, Any]]) -> None:
        """Answer as asked, streamed or not; `extra` goes into the choices, in order, if not."""
        try:
            await self._before()
            if self._answer.asked.body.get("stream"):
                await self._stream()
            else:
                await self._unary(extra)
            self._tally.finished += 1
        finally:
            if self._watch is not None:
                self._watch.cancel()

    async def _before(self) -> None:
        match self._script.fault:
            case "error":
                text = "EngineCore encountered an issue."
                await self._exchange.fail(500, text, "InternalServerError")
                raise Cut
            case "full":
                await self._exchange.fail(429, "Rate limit exceeded.", "RateLimitError")
                raise Cut
            case "reset":
                await self._exchange.hang_up()
            case "hang":
                await self._pause(3600)
        await self._pause(self._script.first_delay)

    async def _unary(self, extra: list[dict[str, Any]]) -> None:
        """Send the whole answer, after the time that its tokens take."""
        tokens = sum(len(choice.tokens) for choice in self._answer.choices)
        await self._pause(self._script.delay * tokens)
        match self._script.fault:
            case "bad_json":
                await self._exchange.reply(200, b'{"choices": [{"ind')
            case "die" | "stall":
                await self._exchange.start(200, [JSON, (b"content-length", b"1000")])
                await self._exchange.write(b'{"id": "x"')
                await self._stop_short()
            case _:
                await self._exchange.reply(200, shapes.unary(self._answer, self._script, extra))

    async def _stream(self) -> None:
        """Send the answer as server-sent events."""
        script, write = self._script, self._exchange.write
        await self._exchange.start(200, SSE)
        chunks = shapes.Chunks(self._answer, script)
        for chunk in chunks.opening():
            await write(chunk)
        for at, chunk in enumerate(chunks.tokens()):
            if at:
                await self._pause(script.delay)
            if at == script.fault_after and script.fault != "none":
                await self._misbehave()
            await write(chunk)
        for chunk in chunks.closing():
            await write(chunk)
        await write(b"" if script.fault == "no_done" else b"data: [DONE]\n\n", more=False)

    async def _misbehave(self) -> None:
        """Do what the script's fault says, in the middle of a stream."""
        write, text = self._exchange.write, self._answer.choices[0].text
        match self._script.fault:
            case "die" | "stall":
                await self._stop_short()
            case "bad_json":
                await write(b'data: {"choices": [{"index": 0, "delta": {"content": "\n\n')
            case "error_event":
                error = {"message": "Internal server error", "type": "InternalServerError",
                         "param": None, "code": 500}  # fmt: skip
                await write(b"data: " + shapes.encode({"error": error}) + b"\n\n")
                await write(b"data: [DONE]\n\n", more=False)
                raise Cut
            case "unknown_chunk":
                await write(shapes.strange_chunk(self._answer, text, known_object=False))
            case "unknown_delta":
                await write(shapes.strange_chunk(self._answer, text, known_object=True))

    async def _stop_short(self) -> None:
        if self._script.fault == "stall":
            await self._pause(3600)
        await self._exchange.hang_up()

    async def _pause(self, seconds: float) -> None:
        if not seconds or self._watch is None:
            return
        await asyncio.wait({self._watch}, timeout=seconds)
        if self._watch.done():
            self._tally.aborted += 1
            raise Cut
