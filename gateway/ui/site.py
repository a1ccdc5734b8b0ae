"""The site under `/ui`: its routes, and what holds for every answer: headers, errors as pages."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, request_response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.serving.state import Serving
from gateway.ui.pages import STATIC, Pages

HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self';"
    " base-uri 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
# Pages name files with their digest, so what was read once stays good.
_FILES = {"cache-control": "public, max-age=31536000, immutable"}


def ui_routes(serving: Serving) -> list[BaseRoute]:
    """Give the routes of the pages: `/ui`, and all below it."""
    pages = Pages(serving)
    start = _Secured(request_response(pages.guarded(pages.start)))
    return [Route("/ui", start, methods=["GET"]), Mount("/ui", _Secured(_site(pages)))]


def _site(pages: Pages) -> Starlette:
    item = "/review/{item_id:int}"

    async def missing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class only)
        message = "There is no such page." if error.status_code == 404 else error.detail
        response = pages.error(error.status_code, message)
        response.headers.update(error.headers or {})
        return response

    async def unexpected(request: Request, error: Exception) -> Response:
        return pages.error(500, "Something went wrong in the gateway.")

    return Starlette(
        routes=[
            Route("/", pages.guarded(pages.start), methods=["GET"]),
            Route("/sign-in", pages.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", pages.guarded(pages.sign_out), methods=["POST"]),
            Route("/review", pages.guarded(pages.queue), methods=["GET"]),
            Route(item, pages.guarded(pages.item), methods=["GET"]),
            Route(item, pages.guarded(pages.decide), methods=["POST"]),
            Route(f"{item}/undo", pages.guarded(pages.undo), methods=["POST"]),
            Route("/rollouts", pages.guarded(pages.rollouts), methods=["GET"]),
            Mount("/static", _Secured(StaticFiles(directory=STATIC), _FILES)),
        ],
        exception_handlers={HTTPException: missing, Exception: unexpected},
    )


class _Secured:
    """Puts headers on every answer of an application, files and errors too; its own stay."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] = HEADERS) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured)
