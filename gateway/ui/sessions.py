"""Signed sessions of the pages: a cookie that names a key, and a token for each form.

Nothing is stored. The cookie carries a MAC under a key that follows from the installation's secret;
the API key itself is never in it. A key that was revoked or has expired ends its sessions.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.access import REVIEWERS
from gateway.errors import Unauthenticated
from gateway.registry.snapshot import Key, Snapshot

COOKIE = "adapterloop_session"
HOURS = 12


@dataclass(frozen=True, slots=True)
class Session:
    """Someone who signed in; `token` goes into each of the session's forms."""

    key: Key
    token: str


class Sessions:
    """Begins, reads and ends sessions."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"adapterloop ui sessions", "sha256")

    def begin(self, request: Request, response: Response, key: Key) -> None:
        """Sign someone in by their key."""
        until = int(time.time()) + HOURS * 3600
        if key.expires_at is not None:
            until = min(until, int(key.expires_at))
        text = f"{key.id}.{until}"
        response.set_cookie(
            COOKIE,
            f"{text}.{self._mac('session', text)}",
            max_age=HOURS * 3600,
            path="/ui",
            secure=_is_https(request),
            httponly=True,
            samesite="lax",
        )

    def read(self, request: Request, snapshot: Snapshot) -> Session:
        """Give the session of a request. Raises `Unauthenticated`."""
        text, _, mac = request.cookies.get(COOKIE, "").rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac("session", text).encode()):
            raise Unauthenticated
        key_id, _, until = text.partition(".")
        now = time.time()
        if int(until) <= now:
            raise Unauthenticated
        for key in snapshot.keys.values():
            if key.id == int(key_id) and key.role in REVIEWERS:
                if key.expires_at is not None and key.expires_at <= now:
                    break
                return Session(key, self._mac("form", text))
        raise Unauthenticated

    def end(self, response: Response) -> None:
        """Sign out."""
        response.delete_cookie(COOKIE, path="/ui")

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), sha256).hexdigest()


def _is_https(request: Request) -> bool:
    # A proxy in front may speak TLS for us. Who forges this only spoils their own cookie.
    forwarded = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or forwarded.split(",")[0].strip() == "https"
