"""What a worker that shares no disk does before vLLM opens an adapter; vLLM is not needed here."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from deploy.config import Config
from deploy.worker import MIDDLEWARE, PLUGIN, command, environment
from gateway.registry.storage import FolderStorage
from tests.stub.worker import Worker
from tests.unit.gateway.registry.adapter_files import write_adapter

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


@pytest.fixture
def cache_module() -> ModuleType:
    return importlib.import_module("adapterloop_vllm.cache")


@pytest.fixture
def source_module() -> ModuleType:
    return importlib.import_module("adapterloop_vllm.source")


@pytest.fixture
def middleware() -> ModuleType:
    return importlib.import_module("adapterloop_vllm.middleware")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


Keep = Callable[[int], str]


@pytest.fixture
def keep(storage: Path, tmp_path: Path) -> Keep:
    """Puts an adapter with these weights into the storage; gives its digest."""

    def keep(fill: int) -> str:
        place = FolderStorage(storage)
        with place.receive(write_adapter(tmp_path / f"source-{fill}", fill=fill)) as draft:
            place.keep(draft)
            return draft.sha256

    return keep


MakeCache = Callable[..., Any]


@pytest.fixture
def make_cache(
    storage: Path, tmp_path: Path, cache_module: ModuleType, source_module: ModuleType
) -> MakeCache:
    def make(max_bytes: int = 10**9) -> Any:
        source = source_module.FolderSource(storage)
        return cache_module.AdapterCache(tmp_path / "cache", source, max_bytes)

    return make


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "adapters").iterdir()}


def test_an_adapter_is_fetched_once_and_stays(
    make_cache: MakeCache, keep: Keep, storage: Path, tmp_path: Path
) -> None:
    digest = keep(1)
    hold = make_cache().hold(digest)
    assert hold.path == tmp_path / "cache" / "adapters" / digest
    assert (hold.path / WEIGHTS).read_bytes() == (tmp_path / "source-1" / WEIGHTS).read_bytes()
    hold.release()
    shutil.rmtree(storage)
    make_cache().hold(digest).release()


def test_a_local_copy_that_went_bad_is_fetched_again(
    make_cache: MakeCache, keep: Keep, tmp_path: Path
) -> None:
    digest = keep(1)
    hold = make_cache().hold(digest)
    hold.release()
    (hold.path / WEIGHTS).write_bytes(b"bad")
    hold = make_cache().hold(digest)
    assert (hold.path / WEIGHTS).read_bytes() == (tmp_path / "source-1" / WEIGHTS).read_bytes()
    hold.release()


def test_a_bad_one_is_refused_and_leaves_nothing(
    make_cache: MakeCache, keep: Keep, storage: Path, tmp_path: Path, source_module: ModuleType
) -> None:
    digest = keep(1)
    weights = storage / "adapters" / digest / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    with pytest.raises(source_module.AdapterDamaged, match=f"{digest}/{WEIGHTS} has the digest"):
        make_cache().hold(digest)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["adapters"]
    assert cached(tmp_path) == set()


def test_many_workers_of_a_machine_fetch_at_once(make_cache: MakeCache, keep: Keep) -> None:
    digests = [keep(fill) for fill in range(3)]

    def one(number: int) -> Path:
        hold = make_cache().hold(digests[number % 3])
        try:
            assert (hold.path / WEIGHTS).stat().st_size
            return Path(hold.path)
        finally:
            hold.release()

    with ThreadPoolExecutor(6) as threads:
        assert {path.name for path in threads.map(one, range(30))} == set(digests)


def test_room_is_made_of_what_is_loaded_nowhere_oldest_first(
    make_cache: MakeCache, keep: Keep, storage: Path, tmp_path: Path
) -> None:
    old, loaded, newer, newest = (keep(fill) for fill in range(4))
    size = sum(path.stat().st_size for path in (storage / "adapters" / old).iterdir())
    holds = {}
    for age, digest in ((400, old), (300, loaded), (200, newer)):
        holds[digest] = make_cache().hold(digest)
        at = holds[digest].path.stat().st_mtime - age
        os.utime(holds[digest].path, (at, at))
    for digest in (old, newer):
        holds[digest].release()
    last = make_cache(max_bytes=3 * size).hold(newest)
    assert cached(tmp_path) == {loaded, newer, newest}
    make_cache(max_bytes=1).hold(newest).release()
    assert cached(tmp_path) == {loaded, newest}, "what is loaded stays, whatever the bound"
    last.release()
    holds[loaded].release()


def test_what_a_killed_process_left_goes(make_cache: MakeCache, keep: Keep, tmp_path: Path) -> None:
    left = tmp_path / "cache" / ".incoming-left"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    make_cache().hold(keep(1)).release()
    assert not left.exists()


# -- around vLLM ---------------------------------------------------------------------------------


Ask = Callable[..., Any]


@pytest.fixture
def variables(storage: Path, tmp_path: Path) -> dict[str, str]:
    return {"ADAPTERLOOP_STORAGE": str(storage), "ADAPTERLOOP_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def ask(worker: Worker, variables: dict[str, str], middleware: ModuleType) -> Iterator[Ask]:
    app = middleware.FetchAdapters(worker, variables)

    async def ask(path: str, **body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.post(path, json=body)

    yield ask
    for name in list(app._held):
        app._forget(name)


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


async def test_vllm_gets_a_local_folder_for_a_url(
    ask: Ask, keep: Keep, worker: Worker, tmp_path: Path
) -> None:
    digest = keep(1)
    path = f"s3://bucket/prefix/adapters/{digest}"
    assert (await ask(LOAD, lora_name="a@1-x", lora_path=path)).status_code == 200
    assert worker.adapters["a@1-x"].path == str(tmp_path / "cache" / "adapters" / digest)
    again = await ask(LOAD, lora_name="a@1-x", lora_path=path)
    assert again.status_code == 400
    assert "already been loaded" in again.json()["error"]["message"]


async def test_a_folder_of_this_machine_is_opened_where_it_lies(
    ask: Ask, keep: Keep, worker: Worker, storage: Path, tmp_path: Path
) -> None:
    here = str(storage / "adapters" / keep(1))
    assert (await ask(LOAD, lora_name="a@1-x", lora_path=here)).status_code == 200
    assert worker.adapters["a@1-x"].path == here
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("path", ["someone/adapter", "/adapters/mine", "s3://b/adapters/0a", None])
async def test_other_paths_are_vllms_own_business(
    ask: Ask, worker: Worker, path: str | None
) -> None:
    answer = await ask(LOAD, lora_name="theirs", lora_path=path)
    assert answer.status_code == (404 if path else 400)
    assert worker.seen.loads == (["theirs"] if path else [])


async def test_what_is_loaded_stays_on_disk_until_it_is_unloaded(
    ask: Ask, keep: Keep, make_cache: MakeCache, tmp_path: Path
) -> None:
    one, other = keep(1), keep(2)
    await ask(LOAD, lora_name="a@1-x", lora_path=f"s3://b/adapters/{one}")
    small = make_cache(max_bytes=1)
    small.hold(other).release()
    assert one in cached(tmp_path)
    assert (await ask(UNLOAD, lora_name="a@1-x")).status_code == 200
    small.hold(other).release()
    assert cached(tmp_path) == {other}


async def test_a_load_that_vllm_refuses_holds_nothing(
    ask: Ask, keep: Keep, worker: Worker, make_cache: MakeCache, tmp_path: Path
) -> None:
    worker.load_fault = "error"
    one, other = keep(1), keep(2)
    path = f"s3://b/adapters/{one}"
    assert (await ask(LOAD, lora_name="a@1-x", lora_path=path)).status_code == 500
    make_cache(max_bytes=1).hold(other).release()
    assert cached(tmp_path) == {other}


async def test_damage_is_refused_and_absence_may_pass(
    ask: Ask, keep: Keep, worker: Worker, storage: Path
) -> None:
    digest = keep(1)
    weights = storage / "adapters" / digest / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"x")
    damaged = await ask(LOAD, lora_name="a@1-x", lora_path=f"s3://b/adapters/{digest}")
    assert damaged.status_code == 422
    assert f"{WEIGHTS} has fewer than" in damaged.json()["error"]["message"]
    absent = await ask(LOAD, lora_name="a@1-x", lora_path=f"s3://b/adapters/{'0' * 64}")
    assert absent.status_code == 503
    assert "ADAPTERLOOP_STORAGE must name" in absent.json()["error"]["message"]
    assert worker.seen.loads == []


class TestWithoutStorage:
    @pytest.fixture
    def variables(self) -> dict[str, str]:
        return {}

    async def test_the_worker_serves_and_says_what_is_missing(self, ask: Ask) -> None:
        answer = await ask(LOAD, lora_name="a@1-x", lora_path=f"s3://b/adapters/{'0' * 64}")
        assert answer.status_code == 503
        assert "ADAPTERLOOP_STORAGE must name" in answer.json()["error"]["message"]
        assert (await ask("/v1/completions", model="base@0", prompt="x")).status_code == 200


def test_a_bucket_needs_obstore_on_the_worker_too(
    source_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "obstore.store", None)
    with pytest.raises(source_module.AdapterUnavailable, match="pip install obstore"):
        source_module.open_source("s3://bucket/x")


def test_the_local_worker_runs_with_it(tmp_path: Path) -> None:
    config = Config(home=tmp_path, storage="s3://bucket/x")
    line = command(config)
    assert line[line.index("--middleware") + 1] == MIDDLEWARE
    module, _, name = MIDDLEWARE.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert environment(config, {})["ADAPTERLOOP_STORAGE"] == "s3://bucket/x"
    shared = environment(Config(home=tmp_path), {})
    assert shared["ADAPTERLOOP_STORAGE"] == str(tmp_path / "storage")
