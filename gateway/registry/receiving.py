"""Takes a version's files in: into a folder of this machine, where they can be checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.registry.errors import AdapterTooLarge, InvalidAdapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"
LISTING = "files.json"
REQUIRED = (CONFIG, WEIGHTS)
TAKEN = (CONFIG, WEIGHTS, MANIFEST)
MODEL_CONFIG = "config.json"
MODEL_INDEX = "model.safetensors.index.json"
# Of a merged model: besides its weights, what workers need to read and to write text with it.
MODEL_TAKEN = (
    MODEL_CONFIG,
    MODEL_INDEX,
    MANIFEST,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
IGNORED = ("README.md", LISTING)
MAX_BYTES = 512 * 1024 * 1024
MODEL_MAX_BYTES = 1024**4
"""Of a merged model, which comes from a folder: its disk ends sooner."""

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What trainers leave beside an adapter: pickles, but no weights, and never copied.
_LEFT_BY_TRAINERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_INCOMING = ".incoming-adapter-"
_STALE_S = 3600.0
_CHUNK = 1024 * 1024

Source = Path | Mapping[str, BinaryIO]


def is_model(names: Container[str]) -> bool:
    """Whether these are the files of a whole model rather than of an adapter."""
    return MODEL_CONFIG in names and CONFIG not in names


def taken(names: Iterable[str]) -> list[str]:
    """Give those of a version's files that are kept, in order."""
    found = set(names)
    if not is_model(found):
        return [name for name in TAKEN if name in found]
    return sorted(name for name in found if name in MODEL_TAKEN or _SHARD.fullmatch(name))


def digest_of(digests: Mapping[str, str]) -> str:
    """Give the digest of an adapter from its files' by name: the same files, the same one."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}\0{digests[name]}\n".encode())
    return whole.hexdigest()


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
        """The digest of names and contents."""
        return digest_of({name: file.sha256 for name, file in self.files.items()})

    @property
    def described(self) -> dict[str, dict[str, str | int]]:
        """The files' digests and sizes by name, as manifests have them."""
        return {name: {"sha256": f.sha256, "size": f.size} for name, f in self.files.items()}

    @property
    def listing(self) -> bytes:
        """What is written last of a kept adapter: its files' digests and sizes, as JSON."""
        return json.dumps(self.described, indent=1, sort_keys=True).encode()


@contextmanager
def receive(source: Source, parent: Path, max_bytes: int) -> Iterator[Draft]:
    """Copy a folder's or an upload's files into a folder under `parent`, gone on leaving.

    `max_bytes` bounds an adapter. Raises `InvalidAdapter`, which names the file, and
    `AdapterTooLarge`.
    """
    folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=parent))
    try:
        files = (
            _receive_folder(source, folder, max_bytes)
            if isinstance(source, Path)
            else _receive_upload(source, folder, max_bytes)
        )
        yield Draft(folder, files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_received(parent: Path) -> None:
    """Delete what a killed process left half received under `parent`."""
    before = time.time() - _STALE_S
    for folder in parent.glob(f"{_INCOMING}*"):
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


def _receive_folder(source: Path, target: Path, max_bytes: int) -> dict[str, StoredFile]:
    try:
        names = sorted(entry.name for entry in os.scandir(source))
    except NotADirectoryError:
        raise InvalidAdapter(f"{source} is a file: name the folder that holds {CONFIG}.") from None
    except OSError as error:
        raise InvalidAdapter(f"The folder {source} cannot be read: {error.strerror}.") from error
    _refuse_pickles(names)
    _require(names)
    budget = _Budget(MODEL_MAX_BYTES if is_model(names) else max_bytes)
    found = {}
    for name in taken(names):
        with _open_plain(source / name) as stream:
            found[name] = _copy(stream, target / name, budget)
    return found


def _receive_upload(
    source: Mapping[str, BinaryIO], target: Path, max_bytes: int
) -> dict[str, StoredFile]:
    _refuse_pickles(source)
    names = taken(source)
    for name in source:
        if name not in names and name not in IGNORED:
            known = "a model's files" if is_model(source) else ", ".join(TAKEN)
            raise InvalidAdapter(
                f"The file name {name[:80]!r} is not one of {known}.", param="files"
            )
    _require(source)
    budget = _Budget(max_bytes)
    return {name: _copy(source[name], target / name, budget) for name in names}


def _refuse_pickles(names: Iterator[str] | list[str] | Mapping[str, BinaryIO]) -> None:
    for name in names:
        leftover = name in _LEFT_BY_TRAINERS or name.startswith("rng_state")
        if name.lower().endswith(_PICKLES) and not leftover:
            raise InvalidAdapter(
                f"{name[:80]} is a pickle, which can run code when it is loaded. "
                f"Save the weights as safetensors, an adapter's as {WEIGHTS}.",
                param=name[:80],
            )


def _require(names: list[str] | Mapping[str, BinaryIO]) -> None:
    if is_model(names):
        return
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
