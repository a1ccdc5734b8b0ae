"""Asks a gateway whether it is ready."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readiness:
    """`status` is HTTP's, 0 where nothing answers; `reason` is for people."""

    status: int
    reason: str

    @property
    def ready(self) -> bool:
        """Whether the base model answers through the gateway with its guards."""
        return self.status == 200


def readiness(host: str, port: int, timeout_s: float = 3.0) -> Readiness:
    """Ask `/health/ready` once."""
    status, body = get(host, port, "/health/ready", timeout_s)
    if status == 0:
        return Readiness(0, "the gateway is starting")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    error = answer.get("error") if isinstance(answer, dict) else None
    reason = (error or {}).get("message") or answer.get("reason") or f"status {status}"
    return Readiness(status, str(reason))


def get(host: str, port: int, path: str, timeout_s: float = 3.0) -> tuple[int, bytes]:
    """Return status and body of a GET; (0, b"") where nothing answers."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(65536)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
