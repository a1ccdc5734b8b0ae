"""A worker's HTTP over a Unix socket, answered path by path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answers = dict[str, Handler]


@pytest.fixture
def answers() -> Answers:
    return {}


@pytest.fixture
async def session(answers: Answers, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path not in answers:
            return web.json_response({"error": {"message": "no such route"}}, status=404)
        return await answers[request.path](request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "w.sock")).start()
    connector = aiohttp.UnixConnector(str(tmp_path / "w.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
    await runner.cleanup()
