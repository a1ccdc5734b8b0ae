"""Unit tests reach no network: only Unix sockets open."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket

from tests.s3 import BUCKET, s3_server, variables


@pytest.fixture(autouse=True)
def _closed_sockets() -> Iterator[None]:
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server with one bucket, a process of its own."""
    enable_socket()
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in the bucket, and the environment to use it."""
    for name, value in variables(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(4)}/tests"
