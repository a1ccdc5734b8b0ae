"""The review pages: sign in, queue, item. Plain forms; the script only adds keys and a diff."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from feedback.errors import FeedbackError
from feedback.review import Decision, Item, ReviewDesk
from gateway.admin.access import actor_of, sees
from gateway.errors import GatewayError, NotFound, PermissionDenied, Unauthenticated
from gateway.registry.snapshot import Key
from gateway.serving.state import Serving
from gateway.ui.sessions import ROLES, Session, Sessions

HERE = Path(__file__).parent
REASONS = ("flagged", "guarded", "doubtful", "audit")
VERDICTS = ("correct", "wrong", "unsafe", "skip")
SCORES = ("correctness", "relevance", "safety")
PAGE = 50
MAX_FORM = 512 * 1024

_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self';"
    " base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

Handler = Callable[[Request, Session], Awaitable[Response]]


def ui_routes(serving: Serving) -> list[Route | Mount]:
    """Give the routes under `/ui`."""
    pages = Pages(serving)
    return [
        Route("/ui", pages.guarded(pages.start), methods=["GET"]),
        Route("/ui/sign-in", pages.sign_in, methods=["GET", "POST"]),
        Route("/ui/sign-out", pages.guarded(pages.sign_out), methods=["POST"]),
        Route("/ui/review", pages.guarded(pages.queue), methods=["GET"]),
        Route("/ui/review/{item_id:int}", pages.guarded(pages.item), methods=["GET"]),
        Route("/ui/review/{item_id:int}", pages.guarded(pages.decide), methods=["POST"]),
        Route("/ui/review/{item_id:int}/undo", pages.guarded(pages.undo), methods=["POST"]),
        Mount("/ui/static", StaticFiles(directory=HERE / "static")),
    ]


class Pages:
    """The handlers, with what they share."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    @cached_property
    def _sessions(self) -> Sessions:
        return Sessions(self._serving.deps.secret)

    @property
    def _desk(self) -> ReviewDesk:
        return ReviewDesk(self._serving.database)

    def guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Let only those in who signed in, and take forms only with the session's own token."""

        async def handle(request: Request) -> Response:
            try:
                session = self._sessions.read(request, self._serving.keeper.snapshot)
                if request.method == "POST":
                    await self._check_form(request, session)
                return await handler(request, session)
            except Unauthenticated:
                query = urlencode({"next": request.url.path}) if request.method == "GET" else ""
                return RedirectResponse(f"/ui/sign-in?{query}".rstrip("?"), 303, _HEADERS)
            except (GatewayError, FeedbackError) as error:
                return self._page("error.html", status=error.status, message=error.message)

        return handle

    async def sign_in(self, request: Request) -> Response:
        """Ask for a key, and begin a session with one of a reviewer or an admin."""
        target = _own_path(request.query_params.get("next", ""))
        if request.method == "GET":
            return self._page("sign_in.html", target=target, wrong=False)
        try:
            form = await _form(request)
            target = _own_path(str(form.get("next", "")))
            key = self._serving.authenticate_header(f"Bearer {str(form.get('key', '')).strip()}")
            if key.role not in ROLES:
                raise Unauthenticated
        except Unauthenticated:
            return self._page("sign_in.html", status=401, target=target, wrong=True)
        except GatewayError as error:
            return self._page("error.html", status=error.status, message=error.message)
        response = RedirectResponse(target, 303, _HEADERS)
        self._sessions.begin(request, response, key)
        return response

    async def start(self, request: Request, session: Session) -> Response:
        """Lead to the queue."""
        return RedirectResponse("/ui/review", 303, _HEADERS)

    async def sign_out(self, request: Request, session: Session) -> Response:
        """End the session."""
        response = RedirectResponse("/ui/sign-in", 303, _HEADERS)
        self._sessions.end(response)
        return response

    async def queue(self, request: Request, session: Session) -> Response:
        """Show what waits, by alias and reason."""
        filters = _filters(request)
        tenant, desk = session.key.tenant, self._desk
        items = await asyncio.to_thread(desk.queue, tenant, filters, limit=PAGE)
        counts = await asyncio.to_thread(desk.counts, tenant, {"status": filters["status"]})
        mine = {pair: n for pair, n in counts.items() if sees(session.key, pair[0])}
        return self._page(
            "queue.html",
            session=session,
            items=[item for item in items if sees(session.key, item.row["alias"])],
            filters=filters,
            aliases=sorted({alias for alias, _ in mine}),
            reasons=REASONS,
            counts=_by_reason(mine, filters.get("alias")),
            total=sum(mine.values()),
            just_done=_number(request.query_params.get("done", "")),
        )

    async def item(self, request: Request, session: Session) -> Response:
        """Show an answer with its conversation, claimed for this reviewer."""
        item_id, me = request.path_params["item_id"], actor_of(session.key)
        item = await self._seen(session.key, item_id)
        trouble = ""
        if item.status != "done":
            try:
                item = await asyncio.to_thread(self._desk.claim, session.key.tenant, item_id, me)
            except FeedbackError as error:
                trouble = error.message
        just_done = _number(request.query_params.get("done", ""))
        about = self._about(session, item)
        return self._page("item.html", **about, trouble=trouble, just_done=just_done)

    async def decide(self, request: Request, session: Session) -> Response:
        """Keep a verdict and go on to the next item."""
        item_id, me = request.path_params["item_id"], actor_of(session.key)
        item = await self._seen(session.key, item_id)
        form = await _form(request)
        try:
            decision = _decision(form)
            await asyncio.to_thread(self._desk.decide, session.key.tenant, item_id, me, decision)
        except FeedbackError as error:
            about = self._about(session, item, str(form.get("correction", "")))
            return self._page(
                "item.html", status=error.status, **about, trouble=error.message, just_done=None
            )
        following = await self._next(session.key, item.row["alias"])
        query = urlencode({"done": item_id})
        where = f"/ui/review/{following}" if following is not None else "/ui/review"
        return RedirectResponse(f"{where}?{query}", 303, _HEADERS)

    async def undo(self, request: Request, session: Session) -> Response:
        """Take a verdict back and show its item again."""
        item_id = request.path_params["item_id"]
        await self._seen(session.key, item_id)
        me = actor_of(session.key)
        await asyncio.to_thread(self._desk.undo, session.key.tenant, item_id, me)
        return RedirectResponse(f"/ui/review/{item_id}", 303, _HEADERS)

    async def _seen(self, key: Key, item_id: int) -> Item:
        item = await asyncio.to_thread(self._desk.get, key.tenant, item_id)
        if not sees(key, item.row["alias"]):
            raise NotFound(f"There is no review item {item_id}.")
        return item

    async def _next(self, key: Key, alias: str) -> int | None:
        filters = {"status": "open", "alias": alias}
        items = await asyncio.to_thread(self._desk.queue, key.tenant, filters, limit=1)
        return int(items[0].row["id"]) if items else None

    async def _check_form(self, request: Request, session: Session) -> None:
        form = await _form(request)
        if not _same(str(form.get("token", "")), session.token):
            raise PermissionDenied("This form is not from this session: load the page again.")

    def _about(self, session: Session, item: Item, correction: str | None = None) -> dict[str, Any]:
        suggested = next((one["correction"] for one in item.feedback if one["correction"]), None)
        verdict = next((one for one in reversed(item.reviews) if one["undone_at"] is None), None)
        return {
            "session": session,
            "item": item,
            "row": item.row,
            "answer": item.answer,
            "text": item.text,
            "correction": correction if correction is not None else suggested or item.text,
            "suggested": suggested,
            "verdict": verdict,
            "mine": verdict is not None and verdict["reviewer"] == actor_of(session.key),
            "verdicts": VERDICTS,
            "scores": SCORES,
        }

    def _page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        values.setdefault("session", None)
        html = self._templates.get_template(template).render(**values)
        return HTMLResponse(html, status, _HEADERS)


async def _form(request: Request) -> FormData:
    """Read a form, once. Raises `NotFound` for one that no page of ours sends."""
    form: FormData | None = getattr(request.state, "form", None)
    if form is None:
        if int(request.headers.get("content-length", MAX_FORM + 1)) > MAX_FORM:
            raise PermissionDenied("This form is too large.")
        form = request.state.form = await request.form(max_files=0, max_fields=20)
    return form


def _decision(form: FormData) -> Decision:
    verdict, correction = str(form.get("verdict", "")), str(form.get("correction", ""))
    if verdict not in VERDICTS:
        raise PermissionDenied("Choose one of the verdicts.")
    given = {name: str(form.get(name, "")) for name in SCORES}
    scores = {name: float(value) for name, value in given.items() if value in ("0", "0.5", "1")}
    return Decision(
        verdict,  # type: ignore[arg-type]
        # Browsers send line ends as CR LF.
        correction.replace("\r\n", "\n") if verdict == "wrong" else None,
        scores or None,
    )


def _filters(request: Request) -> dict[str, str]:
    found = {"status": request.query_params.get("status", "open")}
    if found["status"] not in ("open", "claimed", "done"):
        found["status"] = "open"
    if request.query_params.get("reason") in REASONS:
        found["reason"] = request.query_params["reason"]
    if alias := request.query_params.get("alias", ""):
        found["alias"] = alias[:63].replace("\0", "")
    return found


def _by_reason(counts: dict[tuple[str, str], int], alias: str | None) -> dict[str, int]:
    return {
        reason: sum(n for (a, r), n in counts.items() if r == reason and alias in (None, a))
        for reason in REASONS
    }


def _own_path(path: str) -> str:
    """Give a path of ours to go to; never another site's."""
    return path if path.startswith("/ui/review") and "//" not in path else "/ui/review"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
