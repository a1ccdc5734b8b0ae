"""Workers that a file lists: what it may hold, and that its word is taken at once."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError

from gateway.registry.snapshot import WorkerOptions, WorkerSpec
from gateway.settings import WorkerSettings
from gateway.workers.discovery import Discovery, found_spec, source_of
from gateway.workers.errors import LookupFailed
from gateway.workers.file_source import FileList, read_list, write_list

from .test_discovery import Clock, Known


def entry(path: Path) -> WorkerSettings:
    return WorkerSettings(name="local", url=f"file+{path}", kind="llamacpp")


def made(store: Known, path: Path) -> Discovery:
    return Discovery(store, [(entry(path), FileList(path))], Clock())


async def test_an_entry_names_the_file(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "v1"
    write_list(path, {("127.0.0.1", 8001): {}, ("::1", 8002): {}})
    source = source_of(entry(path), session)
    assert source is not None
    assert await source.find() == {("127.0.0.1", 8001), ("::1", 8002)}


def test_ports_tell_workers_of_one_machine_apart(tmp_path: Path) -> None:
    assert found_spec(entry(tmp_path / "l"), "127.0.0.1", 8001) == WorkerSpec(
        "local@127.0.0.1:8001", "http://127.0.0.1:8001", "llamacpp", WorkerOptions()
    )


async def test_what_is_no_longer_listed_is_gone_at_once(tmp_path: Path) -> None:
    store, path = Known(), tmp_path / "list.json"
    discovery = made(store, path)
    for ports in ((1,), (1, 2), (2,)):
        write_list(path, {("127.0.0.1", port): {} for port in ports})
        await discovery.step()
        assert set(store.workers) == {f"local@127.0.0.1:{port}" for port in ports}


async def test_what_a_worker_runs_without_is_said_with_the_reason(tmp_path: Path) -> None:
    store, path = Known(), tmp_path / "list.json"
    discovery = made(store, path)

    def left_out(port: int) -> dict[str, str]:
        return dict(store.workers[f"local@127.0.0.1:{port}"].left_out)

    why = {"support@3-1a2b3c4d": "of another family"}
    write_list(path, {("127.0.0.1", 1): why, ("127.0.0.1", 2): {}})
    for _ in range(2):
        await discovery.step()
        assert (left_out(1), left_out(2), store.writes) == (why, {}, 2)
    write_list(path, {("127.0.0.1", 1): {}, ("127.0.0.1", 2): {}})
    await discovery.step()
    assert left_out(1) == {}


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", '["127.0.0.1:1"', '{"a": 1}', "[1]", '["127.0.0.1"]', '["h:x"]', '[":1"]'),
        *('[{"left_out": {}}]', '[{"address": "127.0.0.1:1", "left_out": ["a"]}]'),
        '[{"address": "127.0.0.1:1", "left_out": {"a": 1}}]',
    ],
)
async def test_a_file_that_cannot_be_read_removes_nobody(tmp_path: Path, text: str | None) -> None:
    store, path = Known(), tmp_path / "list.json"
    discovery = made(store, path)
    write_list(path, {("127.0.0.1", 1): {}})
    await discovery.step()
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(LookupFailed, match=r"list\.json"):
        read_list(path)
    await discovery.step()
    assert set(store.workers) == {"local@127.0.0.1:1"}


def test_the_path_is_whole() -> None:
    with pytest.raises(ValidationError, match="file"):
        WorkerSettings(name="w", url="file+workers.json")
