"""The gateway's admin API as the trainer calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from trainer.errors import GatewayAway, Refused

_TIMEOUT_S = 60.0
_PAUSE_S = 1.0
_PASSING = frozenset({429, 502, 503, 504})


class AdminClient:
    """JSON in, JSON out. What fails in passing is tried again for `patience` seconds.

    Every call that changes something may be repeated: the gateway does each only once. Safe for use
    by several threads. Any call raises `Refused` with the gateway's own words, or `GatewayAway`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        patience: float = 120.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._patience = patience
        self._sleep = sleep
        # Keys go to the gateway alone: no proxy from the environment.
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"authorization": f"Bearer {key}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str) -> Any:
        """GET below /admin/v1."""
        return self.send("GET", path, params=parameters).json()

    def text(self, path: str) -> httpx.Response:
        """GET below /admin/v1 what is not JSON."""
        return self.send("GET", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """POST JSON below /admin/v1; None where the answer is empty."""
        response = self.send("POST", path, json=dict(body or {}))
        return response.json() if response.content else None

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """PUT JSON below /admin/v1."""
        response = self.send("PUT", path, json=dict(body))
        return response.json() if response.content else None

    def upload(self, path: str, files: Mapping[str, bytes]) -> Any:
        """POST files as a form below /admin/v1."""
        parts = [("files", (name, content)) for name, content in files.items()]
        return self.send("POST", path, files=parts).json()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a call below /admin/v1 until it is answered for good."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                response = self._http.request(method, f"/admin/v1{path}", **options)
            except httpx.TransportError as error:
                trouble: str = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                if response.status_code not in _PASSING:
                    raise Refused(response.status_code, refusal(response))
                trouble = refusal(response)
            if time.monotonic() >= deadline:
                raise GatewayAway(f"{method} {path}: {trouble}")
            self._sleep(_PAUSE_S)


def refusal(response: httpx.Response) -> str:
    """Give the words with which the gateway refused."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {response.status_code}: {response.text[:200]}"
