"""Where adapter files are kept: content-addressed, written once, in a folder or a bucket.

adapters/<sha256>/adapter_config.json ...   as they were received
adapters/<sha256>/files.json                their digests and sizes, written last

The folder has the same layout as the bucket, so copying one to the other moves the storage.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from gateway.registry.errors import StorageUnavailable
from gateway.registry.receiving import LISTING, MAX_BYTES, Draft, Source, receive, sweep_received

_CHUNK = 1024 * 1024


class AdapterStorage(Protocol):
    """Adapter files that gateways and workers share. Everything blocks: use threads.

    What fails for want of the storage raises `StorageUnavailable`.
    """

    def receive(self, source: Source) -> AbstractContextManager[Draft]:
        """Copy a folder's or an upload's files aside; what is not kept is gone on leaving.

        Raises `InvalidAdapter`, which names the file, and `AdapterTooLarge`.
        """
        ...

    def keep(self, draft: Draft) -> tuple[str, bool]:
        """Keep a draft's files, durably; give their key and whether they were not there before.

        Again, or twice at once, is the same. A fault in the middle leaves nothing that counts as
        kept. May take long: not for a transaction.
        """
        ...

    def holds(self, key: str) -> bool:
        """Whether files are kept under this key."""
        ...

    def read(self, key: str, name: str) -> Iterator[bytes]:
        """Give a kept file in parts."""
        ...

    def locate(self, key: str) -> str:
        """Give the path or URL that workers are told, from what the database holds."""
        ...

    def discard(self, key: str) -> None:
        """Delete kept files, as far as that is possible; no version may have them."""
        ...

    def sweep(self) -> None:
        """Delete what killed processes left half received or half kept."""
        ...


def open_storage(location: str | Path, max_bytes: int = MAX_BYTES) -> AdapterStorage:
    """Open the storage at a folder or `s3://bucket/prefix`; nothing is read or made yet."""
    if str(location).startswith("s3://"):
        from gateway.registry.object_storage import ObjectStorage

        return ObjectStorage(str(location), max_bytes)
    return FolderStorage(Path(location), max_bytes)


def key_of(sha256: str) -> str:
    """Give where the files of this digest are kept, as the database holds it."""
    return f"adapters/{sha256}"


class FolderStorage:
    """Adapter files in a folder that gateways and workers see under the same path."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        """Take the folder, made when it is first needed, and the bound on one adapter's size."""
        self._root = root.absolute()
        self._max_bytes = max_bytes

    def receive(self, source: Source) -> AbstractContextManager[Draft]:
        self._root.mkdir(parents=True, exist_ok=True)
        return receive(source, self._root, self._max_bytes)

    def keep(self, draft: Draft) -> tuple[str, bool]:
        """Rename the draft's folder to its place."""
        key = key_of(draft.sha256)
        target = self._root / key
        target.parent.mkdir(exist_ok=True)
        if target.is_dir():
            return key, False
        _write(draft.folder / LISTING, draft.listing)
        # Workers may run as another user; mkdtemp made the folder for this one only.
        draft.folder.chmod(0o755)
        _sync_folder(draft.folder)
        try:
            draft.folder.rename(target)
        except OSError:
            if target.is_dir():
                return key, False
            raise
        _sync_folder(target.parent)
        _sync_folder(self._root)
        return key, True

    def holds(self, key: str) -> bool:
        return (self._root / key).is_dir()

    def read(self, key: str, name: str) -> Iterator[bytes]:
        try:
            stream = (self._root / key / name).open("rb")
        except OSError as error:
            raise StorageUnavailable(f"The file {name} of {key} cannot be read.") from error
        return _parts(stream)

    def locate(self, key: str) -> str:
        return str(self._root / key)

    def discard(self, key: str) -> None:
        shutil.rmtree(self._root / key, ignore_errors=True)

    def sweep(self) -> None:
        sweep_received(self._root)


def _parts(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while part := stream.read(_CHUNK):
            yield part


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(stream.fileno(), 0o444)
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
