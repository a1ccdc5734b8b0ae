"""Adapters on this machine's disk, fetched once and shared by all workers that run here.

<root>/adapters/<sha256>/    fetched and verified; its time tells when it was last wanted
<root>/.incoming-xxxx/       while it is fetched

Whoever has an adapter loaded holds a shared lock on its folder, which the system takes back when
the process ends: what is not locked may be removed to make room.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .source import AdapterDamaged, AdapterUnavailable, FolderSource, Source, take

logger = logging.getLogger("vllm.adapterloop")

_STALE_S = 3600.0


@dataclass(frozen=True)
class Hold:
    """A verified adapter's folder, which stays until this is released."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Let the folder be removed when room is needed; once."""
        os.close(self.descriptor)


class AdapterCache:
    """Fetched adapters under one folder. Blocks; safe beside other processes."""

    def __init__(self, root: Path, source: Source, max_bytes: int) -> None:
        """Take the folder, where adapters come from, and how much may lie here unused."""
        self._root = root.absolute()
        self._source = source
        self._max_bytes = max_bytes

    def hold(self, sha256: str) -> Hold:
        """Give an adapter's folder, verified in this very call, fetched where it is missing.

        Raises `AdapterUnavailable`, and `AdapterDamaged`, which names the file.
        """
        folder = self._root / "adapters" / sha256
        try:
            descriptor = _lock(folder)
            if descriptor is not None and not self._is_sound(sha256):
                os.close(descriptor)
                _remove(folder)
                descriptor = None
            while descriptor is None:
                self._fetch(sha256, folder)
                descriptor = _lock(folder)
            os.utime(folder)
        except OSError as error:
            raise AdapterUnavailable(f"{self._root} cannot be used: {error.strerror}.") from error
        self._make_room()
        return Hold(folder, descriptor)

    def _is_sound(self, sha256: str) -> bool:
        try:
            take(FolderSource(self._root), sha256)
        except (AdapterDamaged, AdapterUnavailable) as error:
            logger.error("the local copy is fetched again: %s", error)
            return False
        return True

    def _fetch(self, sha256: str, folder: Path) -> None:
        started = time.monotonic()
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._sweep()
        incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._root))
        try:
            size = take(self._source, sha256, incoming)
            try:
                incoming.rename(folder)
            except OSError:
                # Another process may have been first.
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        logger.info("fetched %s: %d bytes in %.1f s", sha256, size, time.monotonic() - started)

    def _sweep(self) -> None:
        """Delete what a killed process left half fetched."""
        before = time.time() - _STALE_S
        for folder in self._root.glob(".incoming-*"):
            with suppress(OSError):
                if folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self) -> None:
        """Remove what is loaded nowhere, least recently wanted first, until the rest fits."""
        found = sorted(_seen(self._root / "adapters"))
        over = sum(size for _, _, size in found) - self._max_bytes
        for _, folder, size in found:
            if over <= 0:
                return
            descriptor = _lock(folder, alone=True)
            if descriptor is not None:
                with suppress(OSError):
                    _remove(folder)
                    over -= size
                os.close(descriptor)
        if over > 0:
            logger.warning("loaded adapters take %d bytes more than ADAPTERLOOP_CACHE_GIB", over)


def _lock(folder: Path, *, alone: bool = False) -> int | None:
    """Lock a folder, for oneself `alone` where nobody has it; None where that is not to be had."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        # Meanwhile it may have been removed, and even fetched again.
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove(folder: Path) -> None:
    """Take a folder out of sight at once, then delete it."""
    leaving = folder.parent.parent / f".incoming-{folder.name}-{os.getpid()}-{time.time_ns()}"
    folder.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _seen(folders: Path) -> Iterator[tuple[float, Path, int]]:
    """Give when each folder was last wanted, and its size in bytes."""
    for folder in folders.iterdir():
        with suppress(FileNotFoundError):  # removed by another process just now
            size = sum(file.stat().st_size for file in folder.iterdir())
            yield folder.stat().st_mtime, folder, size
