from __future__ import annotations

import io
from pathlib import Path

import httpx
import pytest

from deploy import upload
from deploy.api import AdminApi, ApiError
from deploy.progress import Progress
from deploy.upload import upload_adapter
from gateway.registry.receiving import MAX_BYTES, receive


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(3_000_000))
    return folder


def gateway(sha256: str) -> AdminApi:
    """A gateway that says that it kept an adapter of this digest."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert len(request.read()) > 3_000_000
        return httpx.Response(201, json={"version": 4, "state": "registered", "sha256": sha256})

    return AdminApi(httpx.Client(transport=httpx.MockTransport(answer), base_url="http://gateway"))


def test_the_digest_is_the_one_that_the_gateway_finds(folder: Path, tmp_path: Path) -> None:
    with receive(folder, tmp_path, MAX_BYTES) as draft:
        answer = upload_adapter(gateway(draft.sha256), "support", folder, Progress(io.StringIO()))
    assert answer["version"] == 4


def test_other_bytes_at_the_gateway_are_an_error(folder: Path) -> None:
    with pytest.raises(ApiError, match="support@4 is not what was sent: the gateway kept abab"):
        upload_adapter(gateway("ab" * 32), "support", folder, Progress(io.StringIO()))


def test_a_long_upload_shows_how_far_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_QUIET_S", -1.0)
    terminal = Terminal()
    with receive(folder, tmp_path, MAX_BYTES) as draft:
        upload_adapter(gateway(draft.sha256), "support", folder, Progress(terminal))
    assert "sending 2 of 3 MB (" in terminal.getvalue()
    assert "sending 3 of 3 MB (100%)" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K"), "the line is gone in the end"


def test_what_is_too_large_to_send_is_registered_by_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 2_000_000)
    with pytest.raises(ApiError, match=r"holds 3 MB, and 2 are the most .* add --by-path"):
        upload_adapter(gateway(""), "support", folder, Progress(io.StringIO()))


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"holds none of adapter_config\.json"):
        upload_adapter(gateway(""), "support", tmp_path, Progress(io.StringIO()))
