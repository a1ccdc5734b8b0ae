"""Where adapter files lie: a folder, content-addressed, written once.

<root>/adapters/<sha256>/adapter_config.json ...   kept, read-only
<root>/.incoming-xxxx/                             while files are received and checked
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.registry.errors import AdapterTooLarge, InvalidAdapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
REQUIRED = (CONFIG, WEIGHTS)
TAKEN = (CONFIG, WEIGHTS, MANIFEST)
IGNORED = ("README.md",)
MAX_BYTES = 512 * 1024 * 1024

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What trainers leave beside an adapter: pickles, but no weights, and never copied.
_LEFT_BY_TRAINERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_INCOMING = ".incoming-"
_STALE_S = 3600.0
_CHUNK = 1024 * 1024

Source = Path | Mapping[str, BinaryIO]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A received file's digest and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Draft:
    """Received files in a temporary folder, not kept yet."""

    folder: Path
    files: Mapping[str, StoredFile]

    @property
    def sha256(self) -> str:
        """The digest of names and contents; the same files give the same one everywhere."""
        whole = hashlib.sha256()
        for name in sorted(self.files):
            whole.update(f"{name}\0{self.files[name].sha256}\n".encode())
        return whole.hexdigest()


class AdapterStorage:
    """Adapter files in a folder that gateways and workers share."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        """Take the folder, made when it is first needed, and the bound on one adapter's size."""
        self._root = root.absolute()
        self._max_bytes = max_bytes

    @property
    def root(self) -> Path:
        """The storage folder."""
        return self._root

    def locate(self, key: str) -> str:
        """Give the path that a worker opens, from what the database holds."""
        return str(self._root / key)

    @contextmanager
    def receive(self, source: Source) -> Iterator[Draft]:
        """Copy a folder's or an upload's files aside; what is not kept is gone on leaving.

        Raises `InvalidAdapter`, which names the file, and `AdapterTooLarge`.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
        try:
            budget = _Budget(self._max_bytes)
            files = (
                _receive_folder(source, folder, budget)
                if isinstance(source, Path)
                else _receive_upload(source, folder, budget)
            )
            yield Draft(folder, files)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, draft: Draft) -> tuple[str, bool]:
        """Move a draft to its place, durably; give its key and whether it was not there before."""
        key = f"adapters/{draft.sha256}"
        target = self._root / key
        target.parent.mkdir(exist_ok=True)
        if target.is_dir():
            return key, False
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

    def discard(self, key: str) -> None:
        """Delete kept files; the caller knows that no version has them."""
        shutil.rmtree(self._root / key, ignore_errors=True)
        with suppress(OSError):
            (self._root / key).parent.rmdir()

    def sweep(self, older_than_s: float = _STALE_S) -> None:
        """Delete what a killed process left half received."""
        before = time.time() - older_than_s
        for folder in self._root.glob(f"{_INCOMING}*"):
            with suppress(OSError):
                if folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)


class _Budget:
    """The bytes that may still come."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise AdapterTooLarge(
                f"The adapter's files are larger than {self._limit} bytes together, "
                "which is the most that is taken."
            )


def _receive_folder(source: Path, target: Path, budget: _Budget) -> dict[str, StoredFile]:
    try:
        names = sorted(entry.name for entry in os.scandir(source))
    except NotADirectoryError:
        raise InvalidAdapter(f"{source} is a file: name the folder that holds {CONFIG}.") from None
    except OSError as error:
        raise InvalidAdapter(f"The folder {source} cannot be read: {error.strerror}.") from error
    _refuse_pickles(names)
    _require(names)
    found = {}
    for name in TAKEN:
        if name in names:
            with _open_plain(source / name) as stream:
                found[name] = _copy(stream, target / name, budget)
    return found


def _receive_upload(
    source: Mapping[str, BinaryIO], target: Path, budget: _Budget
) -> dict[str, StoredFile]:
    _refuse_pickles(source)
    for name in source:
        if name not in TAKEN + IGNORED:
            raise InvalidAdapter(
                f"The file name {name[:80]!r} is not one of {', '.join(TAKEN)}.", param="files"
            )
    _require(source)
    return {name: _copy(source[name], target / name, budget) for name in TAKEN if name in source}


def _refuse_pickles(names: Iterator[str] | list[str] | Mapping[str, BinaryIO]) -> None:
    for name in names:
        leftover = name in _LEFT_BY_TRAINERS or name.startswith("rng_state")
        if name.lower().endswith(_PICKLES) and not leftover:
            raise InvalidAdapter(
                f"{name[:80]} is a pickle, which can run code when it is loaded. "
                f"Save the adapter as safetensors ({WEIGHTS}).",
                param=name[:80],
            )


def _require(names: list[str] | Mapping[str, BinaryIO]) -> None:
    for name in REQUIRED:
        if name not in names:
            raise InvalidAdapter(f"The file {name} is missing.", param=name)


def _open_plain(path: Path) -> BinaryIO:
    """Open a regular file that is no link; a pipe or a device would block or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise InvalidAdapter(
                f"{path.name} is a symbolic link, which is not followed: copy the file itself.",
                param=path.name,
            ) from error
        raise InvalidAdapter(
            f"{path.name} cannot be read: {error.strerror}.", param=path.name
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidAdapter(f"{path.name} is not a regular file.", param=path.name)
    return os.fdopen(descriptor, "rb")


def _copy(stream: BinaryIO, target: Path, budget: _Budget) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as copy:
        while chunk := stream.read(_CHUNK):
            budget.spend(len(chunk))
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
        copy.flush()
        os.fchmod(copy.fileno(), 0o444)
        os.fsync(copy.fileno())
    return StoredFile(digest.hexdigest(), size)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
