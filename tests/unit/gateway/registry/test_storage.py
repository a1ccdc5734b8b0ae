"""One promise of the storage, in a folder and in a bucket, read back as a worker does."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import LocalStore, ObjectStore, S3Store

from deploy.worker import PLUGIN
from gateway.registry import object_storage
from gateway.registry.errors import StorageUnavailable
from gateway.registry.receiving import Draft
from gateway.registry.storage import AdapterStorage, open_storage

from .adapter_files import write_adapter

CONFIG, WEIGHTS, LISTING = "adapter_config.json", "adapter_model.safetensors", "files.json"


@pytest.fixture(params=["folder", "bucket"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "bucket":
        return str(request.getfixturevalue("s3_url"))
    return str(tmp_path / "storage")


@pytest.fixture
def storage(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterStorage:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(object_storage, "_SPOOL", spool)
    return open_storage(location)


@pytest.fixture
def draft(storage: AdapterStorage, tmp_path: Path) -> Iterator[Draft]:
    source = write_adapter(tmp_path / "source", manifest={"training": {"run": 1}})
    with storage.receive(source) as draft:
        yield draft


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """How workers read the storage."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    return importlib.import_module("adapterloop_vllm.source")


@pytest.fixture
def objects(location: str) -> ObjectStore:
    """The storage seen from below."""
    if not location.startswith("s3://"):
        return LocalStore(location, mkdir=True)
    return S3Store.from_url(location, client_options={"allow_http": True})


def names(objects: ObjectStore) -> set[str]:
    return {meta["path"] for batch in obstore.list(objects) for meta in batch}


def test_what_is_kept_is_what_a_worker_reads(
    storage: AdapterStorage, location: str, draft: Draft, worker: ModuleType, tmp_path: Path
) -> None:
    key, fresh = storage.keep(draft)
    assert (key, fresh) == (f"adapters/{draft.sha256}", True)
    assert storage.locate(key) == f"{location}/{key}"
    assert storage.holds(key)
    (tmp_path / "read").mkdir()
    size = worker.take(worker.open_source(location), draft.sha256, tmp_path / "read")
    assert size == sum(file.size for file in draft.files.values())
    for path in (tmp_path / "source").iterdir():
        assert (tmp_path / "read" / path.name).read_bytes() == path.read_bytes()


def test_a_kept_file_is_read_back_in_parts(storage: AdapterStorage, draft: Draft) -> None:
    key, _ = storage.keep(draft)
    for name, file in draft.files.items():
        assert len(b"".join(storage.read(key, name))) == file.size
    with pytest.raises(StorageUnavailable):
        storage.read(key, "nothing.json")


def test_again_and_twice_at_once_are_the_same(
    storage: AdapterStorage, location: str, tmp_path: Path, objects: ObjectStore
) -> None:
    source = write_adapter(tmp_path / "source")

    def register(_number: int) -> str:
        mine = open_storage(location)
        with mine.receive(source) as draft:
            return mine.keep(draft)[0]

    with ThreadPoolExecutor(4) as threads:
        [key] = set(threads.map(register, range(8)))
    assert names(objects) == {f"{key}/{name}" for name in (CONFIG, WEIGHTS, LISTING)}
    with storage.receive(source) as draft:
        assert storage.keep(draft) == (key, False)


def test_discarded_files_are_gone_and_can_come_again(
    storage: AdapterStorage, draft: Draft, objects: ObjectStore
) -> None:
    key, _ = storage.keep(draft)
    storage.discard(key)
    assert not storage.holds(key)
    assert names(objects) == set()
    storage.discard(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], f"{WEIGHTS} has fewer than "),
        (lambda content: content + b"\0", f"{WEIGHTS} has more than "),
        (lambda content: content[:-1] + b"\1", f"{WEIGHTS} has the digest "),
    ],
)
def test_a_worker_refuses_other_bytes_and_names_the_file(
    storage: AdapterStorage,
    location: str,
    draft: Draft,
    objects: ObjectStore,
    worker: ModuleType,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    key, _ = storage.keep(draft)
    path = f"{key}/{WEIGHTS}"
    content = bytes(obstore.get(objects, path).bytes())
    obstore.delete(objects, path)
    obstore.put(objects, path, damage(content))
    with pytest.raises(worker.AdapterDamaged, match=message):
        worker.take(worker.open_source(location), draft.sha256)


def test_a_worker_refuses_another_adapter_under_this_name(
    storage: AdapterStorage,
    location: str,
    draft: Draft,
    objects: ObjectStore,
    worker: ModuleType,
    tmp_path: Path,
) -> None:
    storage.keep(draft)
    with storage.receive(write_adapter(tmp_path / "other", fill=3)) as other:
        storage.keep(other)
    for name in other.files:
        obstore.copy(objects, f"adapters/{other.sha256}/{name}", f"adapters/{draft.sha256}/{name}")
    listing = f"adapters/{draft.sha256}/{LISTING}"
    obstore.copy(objects, f"adapters/{other.sha256}/{LISTING}", listing)
    with pytest.raises(worker.AdapterDamaged, match=r"files\.json does not belong there"):
        worker.take(worker.open_source(location), draft.sha256)
    obstore.delete(objects, listing)
    obstore.put(objects, listing, b"[]")
    with pytest.raises(worker.AdapterDamaged, match=r"files\.json cannot be read"):
        worker.take(worker.open_source(location), draft.sha256)


def test_what_is_not_there_is_another_matter_than_what_is_wrong(
    location: str, worker: ModuleType
) -> None:
    with pytest.raises(worker.AdapterUnavailable, match=r"files\.json cannot be read"):
        worker.take(worker.open_source(location), "0" * 64)


# -- the bucket ----------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["bucket"], indirect=True)
class TestBucket:
    def test_an_upload_that_broke_off_does_not_count_and_is_gone_on_with(
        self,
        storage: AdapterStorage,
        location: str,
        draft: Draft,
        objects: ObjectStore,
        worker: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        put, sent = obstore.put, []

        def break_off(store: ObjectStore, path: str, file: Path | bytes) -> None:
            if sent:
                raise GenericError("connection reset")
            sent.append(path)
            put(store, path, file)

        with monkeypatch.context() as patch:
            patch.setattr(obstore, "put", break_off)
            with pytest.raises(StorageUnavailable, match=r"'adapters' cannot be reached.*reset"):
                storage.keep(draft)
        assert len(names(objects)) == 1
        assert not storage.holds(f"adapters/{draft.sha256}")
        with pytest.raises(worker.AdapterUnavailable):
            worker.take(worker.open_source(location), draft.sha256)
        assert storage.keep(draft) == (f"adapters/{draft.sha256}", True)
        worker.take(worker.open_source(location), draft.sha256)

    def test_half_uploads_are_swept_once_they_are_old(
        self, storage: AdapterStorage, draft: Draft, objects: ObjectStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        key, _ = storage.keep(draft)
        obstore.put(objects, f"adapters/{'1' * 64}/{CONFIG}", b"{}")
        kept = names(objects)
        storage.sweep()
        assert names(objects) == kept
        monkeypatch.setattr(object_storage, "_STALE", timedelta())
        time.sleep(1.1)  # an object's time has whole seconds
        storage.sweep()
        assert names(objects) == {name for name in kept if name.startswith(key)}

    def test_what_may_be_swept_is_uploaded_anew(
        self, storage: AdapterStorage, draft: Draft, objects: ObjectStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        size = draft.files[WEIGHTS].size
        path = f"adapters/{draft.sha256}/{WEIGHTS}"
        obstore.put(objects, path, bytes([7]) * size)
        monkeypatch.setattr(object_storage, "_STALE", timedelta())
        storage.keep(draft)
        content = bytes(obstore.get(objects, path).bytes())
        assert content == (draft.folder / WEIGHTS).read_bytes()

    def test_large_files_go_in_parts(
        self, storage: AdapterStorage, location: str, worker: ModuleType, tmp_path: Path
    ) -> None:
        source = write_adapter(tmp_path / "large", weights=bytes(range(256)) * 80_000)
        with storage.receive(source) as draft:
            storage.keep(draft)
        (tmp_path / "read").mkdir()
        worker.take(worker.open_source(location), draft.sha256, tmp_path / "read")
        assert (tmp_path / "read" / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()

    def test_a_wrong_bucket_is_named_with_what_to_set(self, draft: Draft) -> None:
        with pytest.raises(StorageUnavailable) as caught:
            open_storage("s3://elsewhere/x").keep(draft)
        assert "'elsewhere' does not exist: set `storage`" in caught.value.message
        assert "AWS_ENDPOINT_URL" in caught.value.message
        assert caught.value.status == 503

    def test_a_service_that_is_away_is_503(
        self, storage: AdapterStorage, draft: Draft, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StorageUnavailable, match="'adapters' cannot be reached"):
            open_storage("s3://adapters/x").keep(draft)

    def test_a_worker_with_a_wrong_bucket_says_what_to_look_at(
        self, location: str, worker: ModuleType
    ) -> None:
        with pytest.raises(worker.AdapterUnavailable, match="ADAPTERLOOP_STORAGE and the AWS_"):
            worker.take(worker.open_source("s3://elsewhere/x"), "0" * 64)


# -- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["folder"], indirect=True)
def test_a_kill_between_files_and_name_leaves_nothing_that_counts(
    storage: AdapterStorage, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_self: Path, _target: Path) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(OSError, match="killed"):
            storage.keep(draft)
    assert not storage.holds(f"adapters/{draft.sha256}")
