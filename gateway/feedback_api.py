"""`/v1/feedback`: what apps and their users say of answers, and what is known of an answer."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from feedback.desk import Desk, feedback_id
from feedback.errors import FeedbackError
from feedback.store import Answered
from feedback.types import Feedback, Rating, model_of
from gateway.errors import (
    Conflict,
    GatewayError,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
)
from gateway.registry.snapshot import Key
from gateway.serving.http import ClientGone, Header, read_body
from gateway.serving.ids import minted_at, version_of
from gateway.serving.requests import RequestStruct, decode
from gateway.serving.small import error_response
from gateway.serving.state import Serving

_ID = re.compile(r"(?:chatcmpl-|cmpl-|resp_)[0-9a-f]{48}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_encode = msgspec.json.Encoder(order="deterministic").encode

Label = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class FeedbackRequest(RequestStruct):
    """`POST /v1/feedback`: the answer, and at least one thing that is said of it."""

    response_id: str
    rating: Rating | None = None
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    labels: Annotated[list[Label], msgspec.Meta(max_length=20)] | None = None
    comment: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    correction: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None


_request = msgspec.json.Decoder(FeedbackRequest)


class FeedbackAnswerNotFound(NotFound):
    """No answer to a key of yours has this id: send the `id` of the answer as it came."""

    code = "response_not_found"
    param = "response_id"


def feedback_routes(serving: Serving) -> list[Route]:
    """Give the routes of the feedback API."""
    api = _FeedbackApi(serving)
    return [
        Route("/v1/feedback", api.post, methods=["POST"]),
        Route("/v1/feedback/{response_id}", api.get, methods=["GET"]),
    ]


def from_feedback(error: FeedbackError) -> GatewayError:
    """Give the gateway's error for one of the feedback store."""
    match error.status:
        case 400:
            kind: type[GatewayError] = InvalidRequest
        case 404:
            kind = NotFound
        case 409:
            kind = Conflict
        case 503:
            kind = StoreUnavailable
        case _:
            kind = GatewayError
    return kind(error.message, param=error.param, code=error.code)


class _FeedbackApi:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def post(self, request: Request) -> Response:
        """Take feedback on an answer of the key's own tenant."""
        key = self._serving.authenticate(request.headers)
        try:
            body = await read_body(request.receive, self._serving.settings.limits.max_body_bytes)
        except ClientGone:
            return Response(status_code=499)
        asked = decode(_request, body)
        alias = self._alias_of(asked.response_id, key)
        if alias in self._serving.settings.base_models or self._stands_in(alias, key.tenant):
            # Another alias may have led there: the policy of the one that was called holds.
            alias = await self._desk.alias_of(key.tenant, asked.response_id) or alias
        self._check_sees(key, alias)
        feedback = self._feedback(asked, key, alias, _idempotency_key(request))
        headers: list[Header] = []
        # What people say of answers must not be lost to answers under way.
        async with self._serving.granted(key, 0, headers, lambda: 0, takes_room=False):
            try:
                kept = await self._desk.submit(feedback)
            except FeedbackError as error:
                return error_response(from_feedback(error))
        response = JSONResponse(
            {
                "id": kept.id,
                "object": "feedback",
                "response_id": kept.response_id,
                "status": kept.replied,
            }
        )
        response.raw_headers.extend(headers)
        return response

    async def get(self, request: Request) -> Response:
        """Tell of an answer how sure the model was, what the guards did and what was said of it."""
        key = self._serving.authenticate(request.headers)
        response_id = request.path_params["response_id"]
        alias = self._alias_of(response_id, key)
        try:
            known = await self._desk.look_up(key.tenant, response_id)
        except FeedbackError as error:
            return error_response(from_feedback(error))
        self._check_sees(key, known.capture["alias"] if known.capture is not None else alias)
        kept_for = self._serving.settings.feedback.keep_hours * 3600
        is_old = minted_at(response_id) + kept_for < time.time()
        return JSONResponse(_summary(response_id, known, is_old))

    @property
    def _desk(self) -> Desk:
        desk = self._serving.desk
        if desk is None:
            raise StoreUnavailable
        return desk

    def _check_sees(self, key: Key, alias: str) -> None:
        """Hide answers of other aliases from a key for some; bases may answer for any.

        Raises `FeedbackAnswerNotFound`.
        """
        seen = (*(key.aliases or ()), *self._serving.settings.base_models, "")
        if key.aliases is not None and alias not in seen:
            raise FeedbackAnswerNotFound

    def _alias_of(self, response_id: str, key: Key) -> str:
        """Give the alias that answered. Raises `FeedbackAnswerNotFound` for what is not theirs."""
        version_id = None
        if _ID.fullmatch(response_id):
            version_id = version_of(response_id, self._serving.deps.secret, key.tenant)
        if not version_id:
            raise FeedbackAnswerNotFound
        versions = self._serving.keeper.snapshot.versions.values()
        return next((version.alias for version in versions if version.id == version_id), "")

    def _stands_in(self, alias: str, tenant: str) -> bool:
        """Whether an alias is a fallback of others."""
        return any(
            entry.partition("@")[0] == alias
            for other in self._serving.keeper.snapshot.aliases.values()
            if other.tenant == tenant and other.name != alias
            for entry in other.options.fallback
        )

    def _feedback(
        self, asked: FeedbackRequest, key: Key, alias: str, idempotency_key: str | None
    ) -> Feedback:
        said = (asked.rating, asked.score, asked.labels, asked.comment, asked.correction)
        if all(value is None or value in ("", []) for value in said):
            raise InvalidRequest(
                "Say something of the answer: 'rating', 'score', 'labels', 'comment' or"
                " 'correction'.",
                param="rating",
            )
        if asked.correction is not None and not asked.correction.strip():
            raise InvalidRequest("'correction' must not be blank.", param="correction")
        return Feedback(
            id=feedback_id(self._serving.deps.secret, key.tenant, key.id, idempotency_key),
            tenant=key.tenant,
            response_id=asked.response_id,
            key_id=key.id,
            body_sha256=hashlib.sha256(_encode(asked)).hexdigest(),
            created_at=time.time(),
            alias=alias,
            rating=asked.rating,
            score=asked.score,
            labels=tuple(asked.labels or ()),
            comment=asked.comment,
            correction=asked.correction,
            idempotency_key=idempotency_key,
        )


def _idempotency_key(request: Request) -> str | None:
    value = request.headers.get("idempotency-key")
    if value is not None and not _IDEMPOTENCY_KEY.fullmatch(value):
        raise InvalidRequest("'Idempotency-Key' has 1 to 255 visible ASCII characters.")
    return value


def _summary(response_id: str, known: Answered, is_old: bool) -> dict[str, Any]:
    capture = known.capture
    summary: dict[str, Any] = {
        "object": "feedback.summary",
        "response_id": response_id,
        "status": "erased" if known.erased else "expired" if is_old else "pending",
        "feedback": [_said(row) for row in known.feedback],
    }
    if capture is None:
        return summary
    actions = {entry.get("action") for entry in capture["audit"]}
    order = ("block", "redact", "flag", "annotate")
    return summary | {
        "status": "linked",
        "model": model_of(capture),
        "fallback_from": (capture["fallback"] or {}).get("wanted"),
        "created": int(capture["started"]),
        "outcome": capture["outcome"],
        "confidence": capture["confidence_mean"],
        "confidence_minimum": capture["confidence_min"],
        "choices": [
            {
                "index": choice["index"],
                "finish_reason": choice["finish_reason"],
                "confidence": choice["confidence"],
            }
            for choice in capture["choices"]
        ],
        "guardrails": next((action for action in order if action in actions), "pass"),
        "guardrails_audit": capture["audit"],
        "review": capture["reasons"],
    }


def _said(row: Any) -> dict[str, Any]:
    names = ("id", "rating", "score", "labels", "comment", "correction", "status")
    return {name: row[name] for name in names} | {"created": int(row["created_at"])}
