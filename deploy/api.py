"""The admin API as the command line calls it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import httpx

from deploy.config import Config
from deploy.home import Home, read_env
from trainer.client import refusal

TIMEOUT_S = 60.0
_PREFIX = "/admin/v1"


class ApiError(Exception):
    """The admin API could not be reached, or refused; the message is for people."""


class AdminApi:
    """A thin client: JSON in, JSON out, refusals as ApiError."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """GET below /admin/v1."""
        return self._send("GET", path, params=query)

    def every(self, path: str, query: Mapping[str, str] | None = None) -> list[Any]:
        """GET all of a list below /admin/v1, page by page."""
        found, asked = [], dict(query or {})
        while True:
            page = self.get(path, asked)
            found += page["data"]
            if not page.get("has_more"):
                return found
            asked["after"] = str(page["last_id"])

    def post(self, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """POST below /admin/v1: `body` as JSON, or httpx's own options (files)."""
        return self._send("POST", path, **(options or {"json": body or {}}))

    def put(self, path: str, body: bytes | Mapping[str, Any]) -> Any:
        """PUT below /admin/v1: a mapping as JSON, bytes as they are."""
        options = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self._send("PUT", path, **options)

    def delete(self, path: str) -> Any:
        """DELETE below /admin/v1."""
        return self._send("DELETE", path)

    def replace(self, path: str, body: Mapping[str, Any]) -> Any:
        """PUT JSON below /admin/v1."""
        return self._send("PUT", path, json=body)

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """GET below /admin/v1 what is not JSON."""
        return self._response("GET", path, params=query).text

    def save(self, path: str, file: BinaryIO) -> None:
        """GET below /admin/v1 what may be long, into an open file."""
        with self._refusing("GET", path), self._http.stream("GET", f"{_PREFIX}{path}") as response:
            if not response.is_success:
                response.read()
                raise ApiError(refusal(response))
            for part in response.iter_bytes():
                file.write(part)

    def _send(self, method: str, path: str, **options: Any) -> Any:
        response = self._response(method, path, **options)
        return response.json() if response.content else None

    def _response(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._refusing(method, path):
            response = self._http.request(method, f"{_PREFIX}{path}", **options)
        if response.is_success:
            return response
        raise ApiError(refusal(response))

    @contextmanager
    def _refusing(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise ApiError(
                f"no gateway answers at {self._http.base_url}; start one with `adapterloop up`"
            ) from None
        except httpx.HTTPError as error:
            raise ApiError(f"{method} {path}: {type(error).__name__}: {error}") from None


@contextmanager
def connect(config: Config) -> Iterator[AdminApi]:
    """Open the admin API of the gateway of this home, with its admin key. Raises ApiError."""
    home = Home(config.home)
    values = read_env(home.keys)
    key = values.get("ADAPTERLOOP_ADMIN_KEY")
    if not key:
        raise ApiError(
            f"{home.keys} holds no ADAPTERLOOP_ADMIN_KEY; `adapterloop up` makes it"
            " (ADAPTERLOOP_HOME names another home)"
        )
    address = values.get("OPENAI_BASE_URL", f"http://127.0.0.1:{config.port}/v1")
    # Loopback: a proxy from the environment has no business here.
    with httpx.Client(
        base_url=address.removesuffix("/v1"),
        headers={"authorization": f"Bearer {key}"},
        timeout=TIMEOUT_S,
        trust_env=False,
    ) as http:
        yield AdminApi(http)
