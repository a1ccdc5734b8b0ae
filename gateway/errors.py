"""Every error the gateway answers with.

GatewayError
├── InvalidRequest            400  the body or a field of it cannot be used
│   ├── ContextLengthExceeded 400
│   └── ContentPolicyViolation 400
├── Unauthenticated           401
├── PermissionDenied          403
├── NotFound                  404
│   ├── ModelNotFound         404
│   └── NotOffered            404
├── MethodNotAllowed          405
├── Conflict                  409
├── BodyTooLarge              413
├── Overloaded                429
│   ├── RequestsExceeded      429
│   ├── TokensExceeded        429
│   ├── ParallelExceeded      429
│   ├── BudgetSpent           429
│   └── Saturated             429
├── UpstreamFailed            502
└── Unavailable               503
    ├── NoWorker              503
    ├── StoreUnavailable      503
    ├── GuardsUnavailable     503
    └── LimitsUnavailable     503

The docstring is the message where none is given. `body` is OpenAI's error object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class GatewayError(Exception):
    """Something went wrong in the gateway."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code
        if retry_after is not None:
            self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object for this error."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class InvalidRequest(GatewayError):
    """The request cannot be used."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt and the answer do not fit the model's context."""

    code = "context_length_exceeded"


class ContentPolicyViolation(InvalidRequest):
    """The request was refused by the content policy of this model."""

    code = "content_policy_violation"


class Unauthenticated(GatewayError):
    """Incorrect API key provided: send it as `Authorization: Bearer sk-...`."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    """This key's role does not allow this call."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(GatewayError):
    """There is nothing at this address."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The model does not exist or you do not have access to it."""

    code = "model_not_found"
    param = "model"


class NotOffered(NotFound):
    """This is not offered here."""

    code = "not_offered"


class MethodNotAllowed(GatewayError):
    """This method is not allowed here."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(GatewayError):
    """The state does not allow this change."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLarge(GatewayError):
    """The request body is too large."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(GatewayError):
    """Too many calls are in flight: try again shortly."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after = 1


class RequestsExceeded(Overloaded):
    """This key has made its requests for this minute."""

    type = "requests"


class TokensExceeded(Overloaded):
    """This key has used its tokens for this minute."""

    type = "tokens"


class ParallelExceeded(Overloaded):
    """This key has as many calls under way as it may have at once."""

    type = "requests"


class BudgetSpent(Overloaded):
    """The token budget of this key is spent."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class Saturated(Overloaded):
    """Every worker that serves this model is full: try again shortly."""

    code = "overloaded"


class UpstreamFailed(GatewayError):
    """The model worker failed while answering."""

    status = 502
    code = "worker_failed"


class Unavailable(GatewayError):
    """The service cannot answer right now: try again."""

    status = 503
    code = "service_unavailable"
    retry_after = 5


class NoWorker(Unavailable):
    """No worker that serves this model is ready: try again shortly."""

    code = "no_worker"


class StoreUnavailable(Unavailable):
    """The database cannot be reached: try again shortly."""

    code = "store_unavailable"


class GuardsUnavailable(Unavailable):
    """The guards cannot judge right now, so nothing is answered: try again shortly."""

    code = "guards_unavailable"


class LimitsUnavailable(Unavailable):
    """This key has a budget, and what it has used cannot be looked up: try again shortly."""

    code = "limits_unavailable"
