"""The gateway as an ASGI application: routes, lifespan, error bodies."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType

import aiohttp
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from feedback.db import make_engine
from feedback.errors import FeedbackError
from feedback.outbox import Outbox
from feedback.store import FeedbackStore
from gateway.admin import create_admin_router
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed
from gateway.feedback_api import feedback_routes, from_feedback
from gateway.policies import keep_fresh
from gateway.recording import make_recording
from gateway.registry.notices import listen
from gateway.registry.service import Registry
from gateway.serving.endpoints import Endpoint, ServingEndpoint
from gateway.serving.forms.base import Form
from gateway.serving.forms.chat import ChatForm
from gateway.serving.forms.completions import CompletionForm
from gateway.serving.forms.responses import ResponsesForm
from gateway.serving.http import header, send_error
from gateway.serving.keeper import SnapshotKeeper
from gateway.serving.pipeline import Deps
from gateway.serving.readiness import Readiness
from gateway.serving.router import Router
from gateway.serving.shadow import Shadows
from gateway.serving.small import SmallRoutes, error_response
from gateway.serving.state import Serving
from gateway.serving.through import PassEndpoint
from gateway.serving.through_forms import PASS_FORMS
from gateway.serving.unknown import unknown
from gateway.serving.upstream import HttpUpstream
from gateway.settings import GatewaySettings
from gateway.shipping import Shipping
from gateway.ui.site import ui_routes
from gateway.workers.kinds import make_admin
from gateway.workers.loader import Loader
from gateway.workers.probe import WorkerWatch
from guardrails.client import JudgeClient
from guardrails.policy_book import PolicyBook

logger = logging.getLogger(__name__)


def create_app(settings: GatewaySettings) -> FastAPI:
    """Make the gateway. Nothing is connected to before the application starts."""
    registry = Registry.from_settings(settings)
    serving = Serving(settings, registry)
    readiness = Readiness(serving)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, registry, serving, readiness):
            yield

    app = Gateway(
        title="adapterloop",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/admin/v1/openapi.json",
    )
    app.state.serving = serving
    app.endpoints = _endpoints(serving)
    app.router.routes[0:0] = _serving_routes(app.endpoints, serving, readiness)
    app.include_router(create_admin_router(), prefix="/admin/v1")
    _handle_errors(app)
    return app


class Gateway(FastAPI):
    """FastAPI with the busiest routes in front of it, and the keys of the admin API.

    Calls for an answer skip FastAPI's middleware and routing, which cost as much as all of the
    relay; every other request, and every other method, takes the usual way. FastAPI reads a body
    before it asks who sends it, so those without a key are refused here.
    """

    endpoints: Mapping[str, Endpoint] = MappingProxyType({})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one ASGI call."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = scope["path"]
        if scope["method"] == "POST" and (endpoint := self.endpoints.get(path)) is not None:
            await endpoint(scope, receive, send)
            return
        if path.startswith("/admin/") and path != self.openapi_url:
            try:
                self.state.serving.authenticate_header(header(scope, b"authorization"))
            except GatewayError as error:
                await send_error(send, error)
                return
        await super().__call__(scope, receive, send)


def _endpoints(serving: Serving) -> dict[str, Endpoint]:
    forms: dict[str, Form] = {
        "/v1/chat/completions": ChatForm(),
        "/v1/completions": CompletionForm(),
        "/v1/responses": ResponsesForm(),
    }
    passing = [PassEndpoint(form, serving) for form in PASS_FORMS]
    return {
        **{path: ServingEndpoint(form, serving) for path, form in forms.items()},
        **{path: one for one in passing for path in one.paths},
    }


def _serving_routes(
    endpoints: Mapping[str, Endpoint], serving: Serving, readiness: Readiness
) -> list[BaseRoute]:
    small = SmallRoutes(serving, readiness)
    return [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()),
        Route("/v1/models", small.models, methods=["GET"]),
        Route("/v1/models/{model:path}", small.model, methods=["GET"]),
        Route("/v1/moderations", small.moderations, methods=["POST"]),
        *feedback_routes(serving),
        *ui_routes(serving),
        Route("/health/live", small.live, methods=["GET"]),
        Route("/health/ready", small.ready, methods=["GET"]),
        Route("/metrics", small.metrics, methods=["GET"]),
    ]


@asynccontextmanager
async def _running(
    settings: GatewaySettings, registry: Registry, serving: Serving, readiness: Readiness
) -> AsyncIterator[None]:
    """Build what is shared and keep the background tasks; all of it ends with the block."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        upstream = HttpUpstream(settings.timeouts)
        stack.push_async_callback(upstream.close)
        stack.push_async_callback(serving.limiter.close)
        judge = JudgeClient(settings.guard_socket)
        stack.push_async_callback(judge.close)
        shipping, engine, outbox = await _open_stores(settings, stack)
        serving.outbox, serving.engine = outbox, engine
        store = FeedbackStore(engine, settings.feedback)
        watch = WorkerWatch(lambda spec: make_admin(spec, session), bases=settings.base_models)
        group, router = await _open_router(settings, registry, watch, stack)
        keeper = SnapshotKeeper(registry, router, _gateway_id())
        serving.open(keeper)
        policies = PolicyBook(settings.policy_file)

        async def boot() -> None:
            secret = await keeper.first_secret()
            recording = make_recording(settings, secret, store, outbox, judge, policies)
            serving.record(recording.desk)
            tasks.append(group.create_task(shipping.run(secret, outbox.file), name="shipping"))
            recorder, most = recording.recorder, settings.rollout.shadow.in_flight
            shadows = Shadows(router, upstream, judge, recorder, most)
            tasks.append(group.create_task(shadows.run(), name="shadows"))
            serving.serve(
                Deps(settings, keeper, secret, router, upstream, judge, policies, recorder, shadows)
            )
            await readiness.run()

        beats = group.create_task(keeper.run(), name="snapshot")
        tasks = [
            group.create_task(work, name=name)
            for name, work in (
                ("notices", listen(settings.database_url, keeper.wake)),
                ("workers", watch.run()),
                ("policies", keep_fresh(policies)),
                ("boot", boot()),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:  # the copies of calls end with them
                task.cancel()
            await keeper.leave()
            beats.cancel()


def _gateway_id() -> str:
    """Name this process among all gateways.

    Containers on a host's own network share its name, and each has a process 1.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


async def _open_router(
    settings: GatewaySettings, registry: Registry, watch: WorkerWatch, stack: AsyncExitStack
) -> tuple[asyncio.TaskGroup, Router]:
    """Open the group of the gateway's tasks, and the router, whose loads end before the group."""
    group = await stack.enter_async_context(asyncio.TaskGroup())
    loader = await stack.enter_async_context(
        Loader(watch, registry, max_cpu_loras=settings.max_cpu_loras)
    )
    return group, Router(watch, loader, group, settings.queue)


async def _open_stores(
    settings: GatewaySettings, stack: AsyncExitStack
) -> tuple[Shipping, Engine, Outbox]:
    """Open where answers and feedback are kept; `stack` closes them, the outbox first."""
    shipping = Shipping(settings)
    # After the outbox is closed, so that it ships the last records too.
    stack.push_async_callback(shipping.close)
    engine = make_engine(settings.database_url)
    stack.push_async_callback(asyncio.to_thread, engine.dispose)
    outbox = await asyncio.to_thread(
        Outbox.open, settings.outbox, f"gateway-{settings.port}", settings.feedback.outbox_bound
    )
    stack.push_async_callback(asyncio.to_thread, outbox.close)
    return shipping, engine, outbox


def _handle_errors(app: FastAPI) -> None:
    """Give every error OpenAI's body."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)  # noqa: S101 (registered for this class only)
        return error_response(error)

    async def of_feedback(request: Request, error: Exception) -> Response:
        assert isinstance(error, FeedbackError)  # noqa: S101
        return error_response(from_feedback(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        where = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            response = error_response(MethodNotAllowed(f"Not allowed: {where}."))
            response.headers.update(error.headers or {})
            return response
        if error.status_code == 404:
            return error_response(unknown(request.method, request.url.path))
        return error_response(InvalidRequest(str(error.detail)))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body") or None
        return error_response(InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param))

    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("unexpected error", exc_info=error)
        return error_response(GatewayError("Something went wrong in the gateway."))

    app.add_exception_handler(GatewayError, ours)
    app.add_exception_handler(FeedbackError, of_feedback)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
