"""The review pages: sign in, queue, item. Plain forms; the script only adds keys and a diff."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from feedback.corrections import scrubbed_decision
from feedback.errors import FeedbackError
from feedback.review import Item, ReviewDesk
from gateway.admin.access import REVIEWERS, actor_of, sees
from gateway.admin.schemas import MAX_INT
from gateway.errors import GatewayError, NotFound, PermissionDenied, Unauthenticated
from gateway.registry.snapshot import Key
from gateway.serving.state import Serving
from gateway.ui import shown
from gateway.ui.forms import REASONS, SCORES, STATES, decision_of, filters_of, read_form
from gateway.ui.rollouts import HEIGHT, WIDTH, look, told
from gateway.ui.sessions import Session, Sessions

HERE = Path(__file__).parent
STATIC = HERE / "static"
PAGE = 50
MOST_ALIASES = 100
_DEFAULT = ("status", "open")

Handler = Callable[[Request, Session], Awaitable[Response]]


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
        digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in STATIC.iterdir()}
        self._templates.globals["shown"] = shown
        self._templates.globals["static"] = lambda n: f"/ui/static/{n}?v={digests[n][:12]}"

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
                query = urlencode({"next": _path(request)}) if request.method == "GET" else ""
                return RedirectResponse(f"/ui/sign-in?{query}".rstrip("?"), 303)
            except (GatewayError, FeedbackError) as error:
                return self.error(error.status, error.message)

        return handle

    def error(self, status: int, message: str) -> Response:
        """Say on a page that something did not work."""
        return self._page("error.html", status, message=message)

    async def sign_in(self, request: Request) -> Response:
        """Ask for a key, and begin a session with one of a reviewer or an admin."""
        target = _own_path(request.query_params.get("next", ""))
        if request.method != "POST":
            return self._page("sign_in.html", target=target, wrong=False)
        try:
            # Before a session there is no token: another site must not sign a visitor in here.
            if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                raise PermissionDenied("This form is not from this site: load the page again.")
            form = await read_form(request)
            target = _own_path(str(form.get("next", "")))
            key = self._serving.authenticate_header(f"Bearer {str(form.get('key', '')).strip()}")
            if key.role not in REVIEWERS:
                raise Unauthenticated
            response = RedirectResponse(target, 303)
            self._sessions.begin(request, response, key)
        except Unauthenticated:
            return self._page("sign_in.html", 401, target=target, wrong=True)
        except GatewayError as error:
            return self.error(error.status, error.message)
        return response

    async def start(self, request: Request, session: Session) -> Response:
        """Lead to the queue."""
        return RedirectResponse("/ui/review", 303)

    async def sign_out(self, request: Request, session: Session) -> Response:
        """End the session."""
        response = RedirectResponse("/ui/sign-in", 303)
        self._sessions.end(response)
        return response

    async def queue(self, request: Request, session: Session) -> Response:
        """Show what waits, by alias and reason."""
        filters = filters_of(request)
        key, desk = session.key, self._desk
        seen: dict[str, Any] = {"aliases": key.aliases, "me": actor_of(key)}
        after = _number(request.query_params.get("after", ""))
        items = await asyncio.to_thread(
            desk.queue, key.tenant, filters, **seen, after=after, limit=PAGE + 1
        )
        status = {"status": filters["status"]}
        counts = await asyncio.to_thread(desk.counts, key.tenant, status, **seen)
        return self._page(
            "queue.html",
            session=session,
            me=seen["me"],
            items=items[:PAGE],
            more=items[PAGE - 1].row["id"] if len(items) > PAGE else None,
            filters=filters,
            states=STATES,
            aliases=sorted({alias for alias, _ in counts} | _named(filters)),
            counts=_by_reason(counts, filters.get("alias")),
            link=_linker(filters),
            just_done=_number(request.query_params.get("done", "")),
        )

    async def rollouts(self, request: Request, session: Session) -> Response:
        """Show where each alias leads, and the rollouts under way with their figures."""
        serving, key = self._serving, session.key
        found = await asyncio.to_thread(
            look,
            serving.registry,
            serving.database,
            serving.settings.rollout,
            [
                alias
                for alias in serving.keeper.snapshot.aliases.values()
                if alias.tenant == key.tenant and sees(key, alias.name)
            ][:MOST_ALIASES],
        )
        return self._page(
            "rollouts.html", session=session, found=found, told=told, width=WIDTH, height=HEIGHT
        )

    async def item(self, request: Request, session: Session) -> Response:
        """Show an answer with its conversation, claimed for this reviewer."""
        item = await self._seen(session.key, request)
        trouble = ""
        if item.status != "done":
            try:
                item = await asyncio.to_thread(
                    self._desk.claim, session.key.tenant, item.row["id"], actor_of(session.key)
                )
            except FeedbackError as error:
                trouble = error.message
        done = _number(request.query_params.get("done", ""))
        return self._item_page(request, session, item, trouble=trouble, just_done=done)

    async def decide(self, request: Request, session: Session) -> Response:
        """Keep a verdict and go on to the next item."""
        item, key = await self._seen(session.key, request), session.key
        item_id, form = item.row["id"], await read_form(request)
        try:
            decision = await scrubbed_decision(self._serving.scrubber, item, decision_of(form))
            await asyncio.to_thread(self._desk.decide, key.tenant, item_id, actor_of(key), decision)
        except FeedbackError as error:
            return self._item_page(
                request,
                session,
                item,
                status=error.status,
                trouble=error.message,
                written=str(form.get("correction", "")),
                given={name: form.get(name) for name in SCORES},
            )
        filters = filters_of(request)
        following = await self._next(key, filters | {"status": "open"})
        where = f"/ui/review/{following}" if following is not None else "/ui/review"
        return RedirectResponse(_linker(filters)(where, done=item_id), 303)

    async def undo(self, request: Request, session: Session) -> Response:
        """Take a verdict back and show its item again."""
        item, key = await self._seen(session.key, request), session.key
        await asyncio.to_thread(self._desk.undo, key.tenant, item.row["id"], actor_of(key))
        return RedirectResponse(_linker(filters_of(request))(f"/ui/review/{item.row['id']}"), 303)

    async def _seen(self, key: Key, request: Request) -> Item:
        item_id = request.path_params["item_id"]
        if item_id > MAX_INT:
            raise NotFound("There is no such review item.")
        item = await asyncio.to_thread(self._desk.get, key.tenant, item_id)
        if not sees(key, item.row["alias"]):
            raise NotFound(f"There is no review item {item_id}.")
        return item

    async def _next(self, key: Key, filters: dict[str, str]) -> int | None:
        items = await asyncio.to_thread(
            self._desk.queue, key.tenant, filters, aliases=key.aliases, me=actor_of(key), limit=1
        )
        return int(items[0].row["id"]) if items else None

    async def _check_form(self, request: Request, session: Session) -> None:
        token = str((await read_form(request)).get("token", ""))
        if not hmac.compare_digest(token.encode(), session.token.encode()):
            raise PermissionDenied("This form is not from this session: load the page again.")

    def _item_page(
        self,
        request: Request,
        session: Session,
        item: Item,
        *,
        status: int = 200,
        trouble: str = "",
        just_done: int | None = None,
        written: str | None = None,
        given: dict[str, Any] | None = None,
    ) -> Response:
        """Show an item; `written` and `given` are what the reviewer has put in already."""
        suggested = next((one["correction"] for one in item.feedback if one["correction"]), None)
        verdict = item.verdict
        return self._page(
            "item.html",
            status,
            session=session,
            item=item,
            row=item.row,
            answer=item.answer,
            correction=written if written is not None else suggested or item.text,
            suggested=suggested,
            given=given or {},
            mine=verdict is not None and verdict["reviewer"] == actor_of(session.key),
            scores=SCORES,
            trouble=trouble,
            just_done=just_done,
            link=_linker(filters_of(request)),
        )

    def _page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        values.setdefault("session", None)
        return HTMLResponse(self._templates.get_template(template).render(**values), status)


def _by_reason(counts: dict[tuple[str, str], int], alias: str | None) -> dict[str, int]:
    """Count by reason, all of them first under the empty one."""
    mine = {pair: n for pair, n in counts.items() if alias in (None, pair[0])}
    by_reason = {
        reason: sum(n for pair, n in mine.items() if pair[1] == reason) for reason in REASONS
    }
    return {"": sum(mine.values()), **by_reason}


def _named(filters: dict[str, str]) -> set[str]:
    return {filters["alias"]} if "alias" in filters else set()


def _linker(filters: dict[str, str]) -> Callable[..., str]:
    """Give a function that makes addresses which keep the filters, save those given."""

    def link(path: str, **changes: object) -> str:
        found = {**filters, **changes}
        query = {k: v for k, v in found.items() if v not in (None, "") and (k, v) != _DEFAULT}
        return f"{path}?{urlencode(query)}" if query else path

    return link


def _path(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return request.url.path + query


def _own_path(path: str) -> str:
    """Give a path of ours to go to; never another site's."""
    ours = path.startswith("/ui/review") and "//" not in path and "\\" not in path
    return path if ours and path.isprintable() else "/ui/review"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
