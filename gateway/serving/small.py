"""The small routes: models, moderations, health, metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import GatewayError, GuardsUnavailable, InvalidRequest
from gateway.registry.snapshot import BASE_TENANT, Alias, Key, Version
from gateway.serving.http import ClientGone, Header, read_body
from gateway.serving.ids import mint
from gateway.serving.readiness import Readiness
from gateway.serving.requests import RequestStruct, decode
from gateway.serving.resolve import alias_of, resolve
from gateway.serving.state import Serving
from guardrails.errors import GuardUnavailable
from guardrails.moderation import moderate


class ModerationText(RequestStruct, tag_field="type", tag="text"):
    """A text to moderate."""

    text: str


class ModerationRequest(RequestStruct):
    """`POST /v1/moderations`."""

    input: str | list[str | ModerationText]
    model: str | None = None


_moderation = msgspec.json.Decoder(ModerationRequest)


class SmallRoutes:
    """Handlers that share the gateway's state."""

    def __init__(self, serving: Serving, readiness: Readiness) -> None:
        self._serving = serving
        self._readiness = readiness

    async def models(self, request: Request) -> Response:
        """List the aliases that the key may call and that lead somewhere."""
        key = self._serving.authenticate(request.headers)
        aliases = self._serving.keeper.snapshot.aliases.values()
        cards = [
            _card(alias.name, alias, alias.stable)
            for alias in sorted(aliases, key=lambda alias: alias.name)
            if alias.stable is not None and _may_see(key, alias)
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """Describe one alias or pinned version. Raises `ModelNotFound`."""
        key = self._serving.authenticate(request.headers)
        name = request.path_params["model"]
        snapshot = self._serving.keeper.snapshot
        alias = alias_of(name, key, snapshot)
        version = alias.stable if name == alias.name else resolve(name, alias, None, snapshot)
        if version is None:
            version = resolve(name, alias, None, snapshot)
        return JSONResponse(_card(name, alias, version))

    async def moderations(self, request: Request) -> Response:
        """Moderate texts with the same guards that judge answers."""
        key = self._serving.authenticate(request.headers)
        try:
            body = await read_body(request.receive, self._serving.settings.limits.max_body_bytes)
        except ClientGone:
            return Response(status_code=499)
        asked = decode(_moderation, body)
        texts = _texts(asked)
        if not texts:
            raise InvalidRequest("'input' must not be empty.", param="input")
        most = self._serving.settings.limits.max_inputs
        if len(texts) > most:
            raise InvalidRequest(f"'input' may hold at most {most} texts here.", param="input")
        deps = self._serving.deps
        headers: list[Header] = []
        async with self._serving.granted(key, 0, headers, lambda: 0):
            try:
                results = await moderate(deps.judge, texts)
            except GuardUnavailable as error:
                raise GuardsUnavailable from error
        verdict = {
            "id": mint("modr-", deps.secret, key.tenant, 0),
            "model": asked.model or "adapterloop-guards",
            "results": msgspec.to_builtins(results),
        }
        response = JSONResponse(verdict)
        response.raw_headers.extend(headers)
        return response

    async def live(self, request: Request) -> Response:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """200 once the base model answers through the gateway with its guards, else 503."""
        reason = self._readiness.reason
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse(
            {"status": "not ready", "reason": reason}, 503, headers={"retry-after": "2"}
        )

    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        serving = self._serving
        page = serving.metrics.page(
            serving.in_flight, serving.records(), serving.shadows, serving.router
        )
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")


def _may_see(key: Key, alias: Alias) -> bool:
    allowed = key.aliases is None or alias.name in key.aliases
    return allowed and alias.tenant in (key.tenant, BASE_TENANT)


def _card(name: str, alias: Alias, version: Version | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": alias.created,
        "owned_by": "adapterloop" if alias.tenant == BASE_TENANT else alias.tenant,
        "version": version.model if version else None,
    }


def _texts(asked: ModerationRequest) -> list[str]:
    if isinstance(asked.input, str):
        return [asked.input]
    return [item if isinstance(item, str) else item.text for item in asked.input]


def error_response(error: GatewayError) -> Response:
    """Write an error of a small route or of the admin API."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    response = JSONResponse(error.body, error.status, headers=headers)
    response.raw_headers.extend(error.headers)
    return response
